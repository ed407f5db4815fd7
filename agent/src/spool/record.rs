//! Records of the spool as bytes: how one is written, and how they are found again in a damaged segment.
//!
//! ```text
//! record  = magic (4) · payload length (4) · CRC-32C of the payload (4) · CRC-32C of the twelve bytes before (4) · payload
//! payload = kind (1) · length of the trial's id (1) · trial id · epoch (4) · sequence number (8) · body
//! ```
//! Numbers are little-endian. The header has a check of its own, so that a record with a damaged payload still says
//! where the next one begins. The magic's first byte is 0xFF, which no UTF-8 text contains.

use std::ops::Range;

use regatta_core::trial::Epoch;

use super::TrialKey;

/// Starts every record; its last byte is the format's version.
const MAGIC: [u8; 4] = [0xff, b'R', b'S', 1];

/// Bytes in front of a payload.
pub(super) const HEADER: usize = 16;

/// Largest payload that a reader believes in, in bytes.
const MAX_PAYLOAD: usize = 16 * 1024 * 1024;

/// What a record is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The body is a serialised `TrialRecord`.
    Data,
    /// The body is the digest over all records of the epoch; the sequence number is the last one.
    Finish,
    /// The epoch's records are no longer needed.
    Discard,
}

impl Kind {
    const ALL: [Self; 3] = [Self::Data, Self::Finish, Self::Discard];

    fn code(self) -> u8 {
        match self {
            Self::Data => 1,
            Self::Finish => 2,
            Self::Discard => 3,
        }
    }
}

/// A payload, taken apart. `body` is the range of the body within the payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Envelope {
    pub(super) kind: Kind,
    pub(super) key: TrialKey,
    pub(super) seq: u64,
    pub(super) body: Range<usize>,
}

/// The record as bytes.
pub(super) fn encode(kind: Kind, key: &TrialKey, seq: u64, body: &[u8]) -> Vec<u8> {
    let id = key.trial.as_str().as_bytes();
    // Identifiers have at most 64 bytes, payloads at most 4 MiB: neither conversion can fail.
    let id_length = u8::try_from(id.len()).unwrap_or(u8::MAX);
    let length = 2 + id.len() + 12 + body.len();
    let mut bytes = Vec::with_capacity(HEADER + length);
    bytes.resize(HEADER, 0);
    bytes.extend([kind.code(), id_length]);
    bytes.extend(id);
    bytes.extend(key.epoch.0.to_le_bytes());
    bytes.extend(seq.to_le_bytes());
    bytes.extend(body);
    let payload_crc = crc32c::crc32c(&bytes[HEADER..]);
    bytes[..4].copy_from_slice(&MAGIC);
    bytes[4..8].copy_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes());
    bytes[8..12].copy_from_slice(&payload_crc.to_le_bytes());
    let header_crc = crc32c::crc32c(&bytes[..12]);
    bytes[12..16].copy_from_slice(&header_crc.to_le_bytes());
    bytes
}

/// Takes a payload apart; `None` if it is not one.
pub(super) fn decode(payload: &[u8]) -> Option<Envelope> {
    let (&[code, id_length], rest) = payload.split_first_chunk()?;
    let kind = Kind::ALL.into_iter().find(|kind| kind.code() == code)?;
    let (id, rest) = rest.split_at_checked(usize::from(id_length))?;
    let (epoch, rest) = rest.split_first_chunk()?;
    let (seq, body) = rest.split_first_chunk()?;
    let trial = std::str::from_utf8(id).ok()?.parse().ok()?;
    let key = TrialKey { trial, epoch: Epoch(u32::from_le_bytes(*epoch)) };
    let body = payload.len() - body.len()..payload.len();
    Some(Envelope { kind, key, seq: u64::from_le_bytes(*seq), body })
}

/// What a segment's bytes hold.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Scan {
    /// Payloads of the whole records, in order.
    pub(super) payloads: Vec<Range<usize>>,
    /// Stretches that belong to no whole record.
    pub(super) bad: Vec<Range<usize>>,
}

/// Finds every whole record.
pub(super) fn scan(bytes: &[u8]) -> Scan {
    let mut scan = Scan::default();
    let mut at = 0;
    while at < bytes.len() {
        if let Some(payload) = whole_record(bytes, at) {
            at = payload.end;
            scan.payloads.push(payload);
        } else {
            let next = next_record(bytes, at);
            scan.bad.push(at..next);
            at = next;
        }
    }
    scan
}

/// The payload of the record at `at`, if it is whole.
pub(super) fn whole_record(bytes: &[u8], at: usize) -> Option<Range<usize>> {
    let (payload, crc) = header(bytes, at)?;
    let content = bytes.get(payload.clone())?;
    (crc32c::crc32c(content) == crc && decode(content).is_some()).then_some(payload)
}

/// The payload's place and check, from an undamaged header. The payload may reach beyond the end.
fn header(bytes: &[u8], at: usize) -> Option<(Range<usize>, u32)> {
    let header: &[u8; HEADER] = bytes.get(at..)?.first_chunk()?;
    let number = |from: usize| u32::from_le_bytes([header[from], header[from + 1], header[from + 2], header[from + 3]]);
    if header[..4] != MAGIC || number(12) != crc32c::crc32c(&header[..12]) {
        return None;
    }
    let length = usize::try_from(number(4)).ok().filter(|&length| length <= MAX_PAYLOAD)?;
    let start = at + HEADER;
    Some((start..start + length, number(8)))
}

/// Where to go on after the damaged record at `at`: behind it if its header is whole, else at the next whole record.
fn next_record(bytes: &[u8], at: usize) -> usize {
    if let Some((payload, _)) = header(bytes, at)
        && payload.end <= bytes.len()
    {
        return payload.end;
    }
    let starts = at + 1..bytes.len();
    starts.into_iter().find(|&start| whole_record(bytes, start).is_some()).unwrap_or(bytes.len())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key() -> TrialKey {
        TrialKey { trial: "run.t0".parse().unwrap(), epoch: Epoch(3) }
    }

    /// Segment bytes and where each record ends.
    fn segment(bodies: &[Vec<u8>]) -> (Vec<u8>, Vec<usize>) {
        let mut bytes = Vec::new();
        let mut ends = Vec::new();
        for (seq, body) in (1..).zip(bodies) {
            bytes.extend(encode(Kind::Data, &key(), seq, body));
            ends.push(bytes.len());
        }
        (bytes, ends)
    }

    /// Sequence numbers and bodies of the whole records.
    fn found(bytes: &[u8]) -> Vec<(u64, Vec<u8>)> {
        let record = |payload: Range<usize>| {
            let envelope = decode(&bytes[payload.clone()]).unwrap();
            (envelope.seq, bytes[payload][envelope.body].to_vec())
        };
        scan(bytes).payloads.into_iter().map(record).collect()
    }

    #[test]
    fn a_record_comes_back() {
        for kind in Kind::ALL {
            let bytes = encode(kind, &key(), 7, b"body");
            let payload = whole_record(&bytes, 0).unwrap();
            let envelope = decode(&bytes[payload.clone()]).unwrap();
            assert_eq!((envelope.kind, envelope.key, envelope.seq), (kind, key(), 7));
            assert_eq!(&bytes[payload][envelope.body], b"body");
        }
    }

    #[test]
    fn a_segment_cut_at_any_byte_has_the_whole_records_before_the_cut() {
        let bodies = [b"one".to_vec(), Vec::new(), vec![0xff; 40], b"four".to_vec()];
        let (bytes, ends) = segment(&bodies);
        for cut in 0..=bytes.len() {
            let whole = ends.iter().filter(|&&end| end <= cut).count();
            let seqs: Vec<_> = found(&bytes[..cut]).into_iter().map(|(seq, _)| seq).collect();
            assert_eq!(seqs, (1..=whole as u64).collect::<Vec<_>>(), "cut at {cut}");
        }
    }

    #[test]
    fn a_record_within_a_damaged_one_is_not_taken_for_a_record() {
        let inner = encode(Kind::Data, &key(), 99, b"inner");
        let (mut bytes, ends) = segment(&[inner, b"after".to_vec()]);
        bytes[ends[0] - 1] ^= 1;
        assert_eq!(found(&bytes), [(2, b"after".to_vec())]);
    }

    proptest! {
        #[test]
        fn a_flipped_byte_costs_its_record_and_no_other(
            bodies in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..60), 1..8),
            position in any::<proptest::sample::Index>(),
            flip in 1u8..,
        ) {
            let (mut bytes, ends) = segment(&bodies);
            let at = position.index(bytes.len());
            bytes[at] ^= flip;
            let hit = ends.iter().position(|&end| at < end).unwrap();
            let expected: Vec<_> =
                (1u64..).zip(bodies).enumerate().filter(|(i, _)| *i != hit).map(|(_, record)| record).collect();
            prop_assert_eq!(found(&bytes), expected);
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let scan = scan(&bytes);
            let bad: usize = scan.bad.iter().map(Range::len).sum();
            prop_assert!(bad <= bytes.len());
        }
    }
}
