//! Frames on a pipe: a protobuf message behind its length, four little-endian bytes.
//!
//! Blocking and buffered by nobody: the caller decides when to write. A reader never allocates more than
//! [`MAX_FRAME`], whatever length the other side claims.

use std::io::{self, Read, Write};

use prost::Message;

/// The largest frame, in bytes. A sample with 100,000 token times stays far below.
pub const MAX_FRAME: usize = 8 * 1024 * 1024;

/// Bytes of the length in front of a frame.
pub const LENGTH_BYTES: usize = 4;

/// What is wrong with a frame.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The pipe broke.
    #[error("failed to read or write a frame")]
    Io(#[from] io::Error),
    /// More bytes than any frame has.
    #[error("a frame of {0} bytes is larger than the limit of {MAX_FRAME}")]
    TooLarge(usize),
    /// The pipe ended inside a frame.
    #[error("the pipe ended inside a frame, after {found} of {expected} bytes")]
    Torn {
        /// Bytes that came.
        found: usize,
        /// Bytes that were announced.
        expected: usize,
    },
    /// Not the message that was expected.
    #[error("a frame is not a valid message")]
    Decode(#[from] prost::DecodeError),
}

/// The message as a frame.
pub fn encode<M: Message>(message: &M) -> Result<Vec<u8>, FrameError> {
    let length = message.encoded_len();
    let prefix = u32::try_from(length).ok().filter(|_| length <= MAX_FRAME).ok_or(FrameError::TooLarge(length))?;
    let mut bytes = Vec::with_capacity(LENGTH_BYTES + length);
    bytes.extend_from_slice(&prefix.to_le_bytes());
    message.encode_raw(&mut bytes);
    Ok(bytes)
}

/// The payload's length, from the bytes in front of it.
pub fn payload_length(prefix: [u8; LENGTH_BYTES]) -> Result<usize, FrameError> {
    let length = u32::from_le_bytes(prefix) as usize;
    if length > MAX_FRAME { Err(FrameError::TooLarge(length)) } else { Ok(length) }
}

/// Writes one frame and flushes.
pub fn write<M: Message>(out: &mut impl Write, message: &M) -> Result<(), FrameError> {
    out.write_all(&encode(message)?)?;
    out.flush()?;
    Ok(())
}

/// Reads one frame; `None` where the pipe ends between frames.
pub fn read<M: Message + Default>(input: &mut impl Read) -> Result<Option<M>, FrameError> {
    let mut prefix = [0; LENGTH_BYTES];
    match fill(input, &mut prefix)? {
        0 => return Ok(None),
        LENGTH_BYTES => {}
        found => return Err(FrameError::Torn { found, expected: LENGTH_BYTES }),
    }
    let mut payload = vec![0; payload_length(prefix)?];
    let found = fill(input, &mut payload)?;
    if found < payload.len() {
        return Err(FrameError::Torn { found, expected: payload.len() });
    }
    Ok(Some(M::decode(payload.as_slice())?))
}

/// Reads until `buffer` is full or the input ends; how many bytes came.
fn fill(input: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match input.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb::Loaded;

    fn loaded() -> Loaded {
        Loaded { load_ns: 7, weight_bytes: 9, engine: "x".to_owned() }
    }

    #[test]
    fn frames_come_back_and_the_end_is_seen() {
        let mut pipe = encode(&loaded()).unwrap();
        pipe.extend(encode(&loaded()).unwrap());
        let mut input = pipe.as_slice();
        for _ in 0..2 {
            assert_eq!(read::<Loaded>(&mut input).unwrap(), Some(loaded()));
        }
        assert_eq!(read::<Loaded>(&mut input).unwrap(), None);
    }

    #[test]
    fn a_torn_frame_is_told_from_an_end() {
        let whole = encode(&loaded()).unwrap();
        for cut in 1..whole.len() {
            let error = read::<Loaded>(&mut &whole[..cut]).unwrap_err();
            assert!(matches!(error, FrameError::Torn { .. }), "{cut}: {error}");
        }
    }

    #[test]
    fn a_frame_of_a_gigabyte_is_refused_before_memory_is_taken() {
        let bytes = (1u32 << 30).to_le_bytes();
        assert!(matches!(read::<Loaded>(&mut bytes.as_slice()), Err(FrameError::TooLarge(_))));
    }
}
