//! `tls`: certificates of connections.

use super::{Node, Options, object, secret, text};

/// The option of sources whose address says whether TLS is spoken.
pub(super) fn tls() -> Node {
    object("Certificates for TLS, beside those of this machine.", certificates(), &[])
}

pub(super) fn certificates() -> Options {
    vec![
        ("ca_file", text("A file (PEM) beneath a file root with authorities to trust besides.")),
        ("ca", text("The same as a text (PEM).")),
        ("cert_file", text("A file beneath a file root with a client certificate, with `key_file`.")),
        ("key_file", text("The file with its key.")),
        ("cert", text("A client certificate (PEM), with `key`.")),
        ("key", secret("Its key (PEM).")),
    ]
}
