//! Decompresses a body piece by piece, within limits, so that a small answer can not fill the memory.

use std::io::Write;

use flate2::write::MultiGzDecoder;

/// Output beyond this share of the input is a bomb, not data.
pub(crate) const RATIO_LIMIT: u64 = 200;
/// Small answers may compress better than the ratio says.
const RATIO_GRACE_BYTES: u64 = 1024 * 1024;
/// Deflate makes at most 1,032 bytes of one, so a step holds some 4 MiB at most before it is looked at.
const STEP_BYTES: usize = 4 * 1024;

/// Why a piece was refused.
#[derive(Debug)]
pub(crate) enum InflateError {
    Ratio,
    Corrupt(std::io::Error),
}

/// A gzip stream of one or more members.
pub(crate) struct Inflate {
    decoder: MultiGzDecoder<Vec<u8>>,
    taken: u64,
    made: u64,
}

impl Inflate {
    pub(crate) fn new() -> Self {
        Self { decoder: MultiGzDecoder::new(Vec::new()), taken: 0, made: 0 }
    }

    /// What `input` inflates to; may be empty.
    pub(crate) fn push(&mut self, input: &[u8]) -> Result<Vec<u8>, InflateError> {
        let mut output = Vec::new();
        for step in input.chunks(STEP_BYTES) {
            self.decoder.write_all(step).map_err(InflateError::Corrupt)?;
            self.decoder.flush().map_err(InflateError::Corrupt)?;
            self.taken += step.len() as u64;
            let made = std::mem::take(self.decoder.get_mut());
            self.made += made.len() as u64;
            if self.made > RATIO_GRACE_BYTES && self.made > self.taken.saturating_mul(RATIO_LIMIT) {
                return Err(InflateError::Ratio);
            }
            if output.is_empty() {
                output = made;
            } else {
                output.extend_from_slice(&made);
            }
        }
        Ok(output)
    }

    /// The last bytes, once the input has ended; fails when the stream is cut off or its checksum is wrong.
    pub(crate) fn finish(&mut self) -> Result<Vec<u8>, InflateError> {
        if self.taken == 0 {
            return Ok(Vec::new());
        }
        self.decoder.try_finish().map_err(InflateError::Corrupt)?;
        Ok(std::mem::take(self.decoder.get_mut()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::Compression;
    use flate2::write::GzEncoder;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn inflate(pieces: &[&[u8]]) -> Result<Vec<u8>, InflateError> {
        let mut inflate = Inflate::new();
        let mut output = Vec::new();
        for piece in pieces {
            output.extend(inflate.push(piece)?);
        }
        output.extend(inflate.finish()?);
        Ok(output)
    }

    #[test]
    fn members_and_single_bytes_inflate_to_the_whole() {
        let mut bytes = gzip(b"first ");
        bytes.extend(gzip(b"second"));
        assert_eq!(inflate(&[&bytes]).unwrap(), b"first second");
        let single: Vec<&[u8]> = bytes.chunks(1).collect();
        assert_eq!(inflate(&single).unwrap(), b"first second");
    }

    #[test]
    fn a_cut_stream_and_a_wrong_checksum_are_errors() {
        let bytes = gzip(&[7; 1000]);
        assert!(matches!(inflate(&[&bytes[..bytes.len() - 3]]), Err(InflateError::Corrupt(_))));
        assert!(matches!(inflate(&[&bytes[..bytes.len() / 2]]), Err(InflateError::Corrupt(_))));
        let mut wrong = bytes.clone();
        let crc = wrong.len() - 6;
        wrong[crc] ^= 1;
        assert!(matches!(inflate(&[&wrong]), Err(InflateError::Corrupt(_))));
    }

    #[test]
    fn a_bomb_is_stopped_soon_after_the_grace() {
        let bytes = gzip(&vec![0; 64 * 1024 * 1024]);
        let mut inflate = Inflate::new();
        assert!(matches!(inflate.push(&bytes), Err(InflateError::Ratio)));
        assert!(inflate.made < 8 * 1024 * 1024, "{}", inflate.made);
    }
}
