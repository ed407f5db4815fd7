//! Frames from a pipe, asynchronously. Bounded: a frame that claims to be larger than any frame is refused before
//! memory is taken, and memory grows with what has come, not with what was announced.

use prost::Message;
use regatta_proto::frame::{FrameError, LENGTH_BYTES, payload_length};
use tokio::io::{AsyncRead, AsyncReadExt};

/// How much is asked for at once, in bytes.
const READ: usize = 16 * 1024;

/// Reads frames. Dropping the future of [`Self::next`] loses nothing.
pub(crate) struct FrameReader<R> {
    pipe: R,
    buffer: Vec<u8>,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    /// A reader of what comes out of `pipe`.
    pub(crate) fn new(pipe: R) -> Self {
        Self { pipe, buffer: Vec::new() }
    }

    /// The pipe itself, for output that is no frames. To be used before the first frame is asked for.
    pub(super) fn pipe(&mut self) -> &mut R {
        &mut self.pipe
    }

    /// The next message; `None` where the pipe ends between frames.
    pub(crate) async fn next<M: Message + Default>(&mut self) -> Result<Option<M>, FrameError> {
        loop {
            if let Some(message) = self.take()? {
                return Ok(Some(message));
            }
            self.buffer.reserve(READ);
            if self.pipe.read_buf(&mut self.buffer).await? == 0 {
                return self.end().map(|()| None);
            }
        }
    }

    /// Takes a message out of the buffer if all of it is there.
    fn take<M: Message + Default>(&mut self) -> Result<Option<M>, FrameError> {
        let Some((&prefix, rest)) = self.buffer.split_first_chunk::<LENGTH_BYTES>() else { return Ok(None) };
        let length = payload_length(prefix)?;
        let Some(payload) = rest.get(..length) else { return Ok(None) };
        let message = M::decode(payload)?;
        self.buffer.drain(..LENGTH_BYTES + length);
        Ok(Some(message))
    }

    /// The pipe has ended: is that between frames?
    fn end(&self) -> Result<(), FrameError> {
        let (found, expected) = match self.buffer.split_first_chunk::<LENGTH_BYTES>() {
            None if self.buffer.is_empty() => return Ok(()),
            None => (self.buffer.len(), LENGTH_BYTES),
            Some((&prefix, rest)) => (rest.len(), payload_length(prefix)?),
        };
        Err(FrameError::Torn { found, expected })
    }
}

#[cfg(test)]
mod tests {
    use regatta_proto::frame;
    use regatta_proto::pb::Loaded;

    use super::*;

    fn loaded(engine: &str) -> Loaded {
        Loaded { load_ns: 7, weight_bytes: 9, engine: engine.to_owned() }
    }

    #[tokio::test]
    async fn frames_come_whole_however_the_pipe_cuts_them() {
        let messages = [loaded("a"), loaded(&"b".repeat(50_000)), loaded("")];
        let bytes: Vec<u8> = messages.iter().flat_map(|m| frame::encode(m).unwrap()).collect();
        for size in [1, 3, 7, 4096, bytes.len()] {
            let (mut writer, reader) = tokio::io::duplex(size);
            let mut frames = FrameReader::new(reader);
            let write = async {
                tokio::io::AsyncWriteExt::write_all(&mut writer, &bytes).await.unwrap();
                drop(writer);
            };
            let read = async {
                for message in &messages {
                    assert_eq!(frames.next::<Loaded>().await.unwrap().as_ref(), Some(message));
                }
                assert!(frames.next::<Loaded>().await.unwrap().is_none());
            };
            tokio::join!(write, read);
        }
    }

    #[tokio::test]
    async fn a_cut_frame_is_torn() {
        let bytes = frame::encode(&loaded("x")).unwrap();
        for cut in 1..bytes.len() {
            let error = FrameReader::new(&bytes[..cut]).next::<Loaded>().await.unwrap_err();
            assert!(matches!(error, FrameError::Torn { .. }), "{cut}: {error}");
        }
    }

    #[tokio::test]
    async fn a_frame_of_a_gigabyte_is_refused_before_memory_is_taken() {
        let bytes = (1u32 << 30).to_le_bytes();
        let mut frames = FrameReader::new(bytes.as_slice());
        assert!(matches!(frames.next::<Loaded>().await, Err(FrameError::TooLarge(_))));
        assert!(frames.buffer.capacity() <= 2 * READ);
    }
}
