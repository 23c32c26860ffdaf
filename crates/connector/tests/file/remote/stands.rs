//! Real servers with files, as `scripts/with-stores` starts them. What is put there goes by other programs' hands.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;
use uuid::Uuid;

/// A variable that `scripts/with-stores` sets.
pub fn from_script(name: &str) -> String {
    std::env::var(name)
        .unwrap_or_else(|_| panic!("{name} is set: run `scripts/test`, or `scripts/with-stores cargo nextest run ...`"))
}

/// A server with files.
pub trait Stand {
    /// Puts a file there.
    fn put(&self, name: &str, bytes: &[u8]);

    /// The options that lead to it.
    fn config(&self, name: &str) -> Value;
}

/// A folder of its own beneath one that a server gives.
fn folder(variable: &str) -> TempDir {
    let dir = TempDir::with_prefix_in("t", from_script(variable)).unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    dir
}

fn write(dir: &TempDir, name: &str, bytes: &[u8]) {
    let path = dir.path().join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

/// Sends a body with curl.
fn curl(arguments: &[&str], body: &[u8]) {
    let mut curl = Command::new("curl");
    curl.args([
        "--silent",
        "--show-error",
        "--fail-with-body",
        "--noproxy",
        "*",
        "--header",
        "content-type: application/octet-stream",
        "--data-binary",
        "@-",
    ])
    .args(arguments);
    let mut child = curl.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(body).unwrap();
    let done = child.wait_with_output().unwrap();
    assert!(done.status.success(), "curl {arguments:?}: {}", String::from_utf8_lossy(&done.stdout));
}

fn encoded(name: &str) -> String {
    name.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'/' => char::from(byte).to_string(),
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

fn prefix() -> String {
    format!("t{}", Uuid::new_v4().simple())
}

/// nginx.
pub struct Nginx(TempDir);

impl Nginx {
    pub fn new() -> Self {
        Self(folder("MATOME_TEST_HTTP_ROOT"))
    }
}

impl Stand for Nginx {
    fn put(&self, name: &str, bytes: &[u8]) {
        write(&self.0, name, bytes);
    }

    fn config(&self, name: &str) -> Value {
        let dir = self.0.path().file_name().unwrap().to_str().unwrap();
        json!({"path": format!("{}/{dir}/{name}", from_script("MATOME_TEST_HTTP_URL"))})
    }
}

/// S3 as moto has it, which checks each signature.
pub struct S3(String);

impl S3 {
    pub fn new() -> Self {
        Self(prefix())
    }
}

impl Stand for S3 {
    fn put(&self, name: &str, bytes: &[u8]) {
        let url = format!("{}/records/{}/{}", from_script("MATOME_TEST_S3_URL"), self.0, encoded(name));
        let key = from_script("MATOME_TEST_S3_KEY");
        let unsigned = "x-amz-content-sha256: UNSIGNED-PAYLOAD";
        let signed = ["--aws-sigv4", "aws:amz:ap-northeast-1:s3", "--user", &key, "--header", unsigned];
        curl(&[&signed[..], &["--request", "PUT", &url]].concat(), bytes);
    }

    fn config(&self, name: &str) -> Value {
        let key = from_script("MATOME_TEST_S3_KEY");
        let (id, secret) = key.split_once(':').unwrap();
        let s3 = json!({
            "endpoint": from_script("MATOME_TEST_S3_URL"),
            "region": "ap-northeast-1",
            "access_key_id": id,
            "secret_access_key": secret,
        });
        json!({"path": format!("s3://records/{}/{name}", self.0), "s3": s3})
    }
}

/// Google Cloud Storage as fake-gcs-server has it, which lets everybody in.
pub struct Gcs(String);

impl Gcs {
    pub fn new() -> Self {
        Self(prefix())
    }
}

impl Stand for Gcs {
    fn put(&self, name: &str, bytes: &[u8]) {
        let name = encoded(&format!("{}/{name}", self.0)).replace('/', "%2F");
        let url = from_script("MATOME_TEST_GCS_URL");
        let url = format!("{url}/upload/storage/v1/b/records/o?uploadType=media&name={name}");
        curl(&["--header", "content-type: application/octet-stream", &url], bytes);
    }

    fn config(&self, name: &str) -> Value {
        let gcs = json!({"endpoint": from_script("MATOME_TEST_GCS_URL")});
        json!({"path": format!("gs://records/{}/{name}", self.0), "gcs": gcs})
    }
}

/// Azure as azurite has it.
pub struct Azure(String);

impl Azure {
    pub fn new() -> Self {
        Self(prefix())
    }
}

impl Stand for Azure {
    fn put(&self, name: &str, bytes: &[u8]) {
        let sas = from_script("MATOME_TEST_AZURE_SAS");
        let url = format!("{}/records/{}/{}?{sas}", from_script("MATOME_TEST_AZURE_URL"), self.0, encoded(name));
        curl(&["--header", "x-ms-blob-type: BlockBlob", "--request", "PUT", &url], bytes);
    }

    fn config(&self, name: &str) -> Value {
        let azure = json!({
            "account": "matome",
            "endpoint": from_script("MATOME_TEST_AZURE_URL"),
            "account_key": from_script("MATOME_TEST_AZURE_KEY"),
        });
        json!({"path": format!("az://records/{}/{name}", self.0), "azure": azure})
    }
}

/// OpenSSH.
pub struct Sftp(TempDir);

impl Sftp {
    pub fn new() -> Self {
        Self(folder("MATOME_TEST_SFTP_ROOT"))
    }

    /// The path of a file from the root of the machine.
    pub fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().unwrap().to_owned()
    }
}

impl Stand for Sftp {
    fn put(&self, name: &str, bytes: &[u8]) {
        write(&self.0, name, bytes);
    }

    fn config(&self, name: &str) -> Value {
        let sftp = json!({
            "host_key": from_script("MATOME_TEST_SFTP_HOST_KEY"),
            "private_key": from_script("MATOME_TEST_SFTP_KEY"),
        });
        json!({"path": format!("sftp://{}{}", from_script("MATOME_TEST_SFTP_URL"), self.path(name)), "sftp": sftp})
    }
}
