//! Values as JSON, for databases that do not make it themselves.

use matome_model::canonical::write_string;

/// A text; what is no UTF-8 stays as it is, so that its record goes to quarantine with these bytes.
pub(super) fn write_text(json: &mut Vec<u8>, text: &[u8]) {
    if let Ok(text) = std::str::from_utf8(text) {
        return write_string(json, text);
    }
    json.push(b'"');
    let breaks_out = |byte: &u8| byte.is_ascii_control() || b"\"\\".contains(byte);
    json.extend(text.iter().map(|byte| if breaks_out(byte) { b'?' } else { *byte }));
    json.push(b'"');
}

/// Bytes in hexadecimal digits behind `\x`.
pub(super) fn write_bytes(json: &mut Vec<u8>, bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    json.extend_from_slice(b"\"\\\\x");
    for byte in bytes {
        json.extend([DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
    }
    json.push(b'"');
}
