//! Real servers with files, as `scripts/with-stores` starts them. What is put there goes by other programs' hands.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use serde_json::{Value, json};
use tempfile::TempDir;

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
