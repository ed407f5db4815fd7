//! The spool: every record an agent has measured and the coordinator may not have yet, on disk.
//!
//! A folder of segments, each an append-only file of [records](record). A record counts as taken when file and folder
//! are synced. What a crash leaves behind is whole records and perhaps one torn tail, which is cut off with a warning; a
//! record damaged later on is passed over and reported, and the ones behind it are still delivered. A segment is
//! deleted when nothing in it is needed any more. The folder is locked: one agent, one spool.
//!
//! Small and synchronous; [`handle`] brings it to asynchronous code.

pub mod handle;
mod record;
#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use regatta_core::digest::Digest;
use regatta_core::id::TrialId;
use regatta_core::trial::Epoch;

use self::record::Kind;
#[cfg(unix)]
use self::unix::sync_folder;
#[cfg(windows)]
use self::windows::sync_folder;

/// A segment that has reached this size is followed by a new one, in bytes.
pub const SEGMENT_BYTES: u64 = 8 * 1024 * 1024;

/// Largest record, in bytes: it must fit into a message with room for its envelope.
pub const MAX_RECORD: usize = regatta_proto::MAX_MESSAGE - 64 * 1024;

/// Percentage of the quota from which on no new trial is taken.
const TIGHT_PERCENT: u64 = 80;

const LOCK: &str = "lock";
const SEGMENT_PREFIX: &str = "segment-";
const SEGMENT_SUFFIX: &str = ".log";

/// A trial under one lease: what records belong to.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TrialKey {
    /// The trial.
    pub trial: TrialId,
    /// The lease.
    pub epoch: Epoch,
}

impl fmt::Display for TrialKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (epoch {})", self.trial, self.epoch.0)
    }
}

/// Why the spool refused something.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// The file system refused something.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried, such as `append to`.
        action: &'static str,
        /// On which file or folder.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Another agent uses the folder.
    #[error(
        "spool {} is in use by another agent (fix: stop that agent, or give this one a spool folder of its own)",
        .0.display()
    )]
    Locked(PathBuf),
    /// The quota is used up.
    #[error(
        "spool {} is full: {used} of {quota} bytes are waiting for the coordinator (fix: bring the coordinator back, or \
         raise the spool quota)",
        path.display()
    )]
    Full {
        /// The folder.
        path: PathBuf,
        /// Bytes in it.
        used: u64,
        /// Bytes allowed.
        quota: u64,
    },
    /// No message could carry the record.
    #[error("a record of {bytes} bytes is larger than the limit of {MAX_RECORD}")]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
    /// The trial's end is in the spool already.
    #[error("trial {0} is already finished in the spool")]
    Finished(TrialKey),
    /// The spool has no such trial.
    #[error("the spool holds nothing of trial {0}")]
    Unknown(TrialKey),
    /// A record of the trial was damaged on disk.
    #[error("records of trial {0} were damaged on disk, so its end can't be vouched for")]
    Damaged(TrialKey),
}

/// How full the spool is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Room {
    /// Below 80 % of the quota.
    Free,
    /// At 80 % or more: no new trial is taken.
    Tight,
}

/// Where a trial ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FinishMark {
    /// Sequence number of the last record; also their count.
    pub last_seq: u64,
    /// [`Digest::over`] the digests of all records, in order.
    pub digest: Digest,
}

/// What the spool holds of one trial under one lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// Which.
    pub key: TrialKey,
    /// The last sequence number that was taken.
    pub last_seq: u64,
    /// Its end, if the trial was measured to the end.
    pub finish: Option<FinishMark>,
    /// Whether every record from 1 to `last_seq` can be read.
    pub whole: bool,
}

/// A stretch of a segment that holds no readable record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// The segment.
    pub path: PathBuf,
    /// Where it begins, in bytes from the start of the file.
    pub offset: u64,
    /// Its length in bytes.
    pub bytes: u64,
    /// A write that a crash cut short, at the end of the last segment; it was cut off. Otherwise the disk is to blame.
    pub torn: bool,
}

/// Records without a gap between them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Chunk {
    /// Sequence number of the first; 0 where there are none.
    pub first_seq: u64,
    /// The records, byte for byte as they were appended.
    pub records: Vec<Vec<u8>>,
}

/// Where a record's body stands.
#[derive(Debug, Clone, Copy)]
struct Location {
    segment: u64,
    /// Start of the record, header included.
    offset: u64,
    /// Length of the record, header included.
    length: u64,
}

#[derive(Default)]
struct Entry {
    records: BTreeMap<u64, Location>,
    last_seq: u64,
    /// Over the digests of records 1 to `last_seq`, as in [`Digest::over`]; means nothing once one is missing.
    hasher: blake3::Hasher,
    finish: Option<FinishMark>,
    segments: BTreeSet<u64>,
    damaged: bool,
}

impl Entry {
    fn add(&mut self, seq: u64, body: &[u8], location: Location) {
        if seq == self.last_seq + 1 {
            self.hasher.update(Digest::of(body).as_bytes());
        } else if !self.records.contains_key(&seq) {
            self.damaged = true;
        }
        self.last_seq = self.last_seq.max(seq);
        self.records.insert(seq, location);
        self.segments.insert(location.segment);
    }

    fn add_finish(&mut self, mark: FinishMark, segment: u64) {
        // Records that were lost at the end show only now.
        self.damaged |= mark.last_seq != self.last_seq;
        self.last_seq = self.last_seq.max(mark.last_seq);
        self.finish = Some(mark);
        self.segments.insert(segment);
    }

    fn digest(&self) -> Digest {
        // A BLAKE3 hash has 32 bytes, as a digest has.
        Digest::try_from(self.hasher.finalize().as_bytes().as_slice()).unwrap_or_else(|_| Digest::of(b""))
    }
}

/// The segment that is written to.
struct Active {
    number: u64,
    file: File,
    length: u64,
}

/// The spool. See the module.
pub struct Spool {
    folder: PathBuf,
    quota: u64,
    /// Size of each segment in bytes, by number.
    segments: BTreeMap<u64, u64>,
    next_segment: u64,
    active: Option<Active>,
    entries: BTreeMap<TrialKey, Entry>,
    damage: Vec<Damage>,
    /// Held as long as the spool is open; the system lets go of it when the process ends, however it ends.
    lock: File,
}

impl Drop for Spool {
    fn drop(&mut self) {
        // By name, and not only by closing the file: a child that is just being started may hold a copy of it.
        let _ = self.lock.unlock();
    }
}

impl Spool {
    /// Opens the folder, creating it where there is none, and reads what an earlier process left in it. `quota` is in
    /// bytes.
    pub fn open(folder: &Path, quota: u64) -> Result<Self, SpoolError> {
        fs::create_dir_all(folder).map_err(io_error("create", folder))?;
        let lock = lock(folder)?;
        let mut spool = Self {
            folder: folder.to_owned(),
            quota,
            segments: BTreeMap::new(),
            next_segment: 1,
            active: None,
            entries: BTreeMap::new(),
            damage: Vec::new(),
            lock,
        };
        let numbers = segment_numbers(folder)?;
        for &number in &numbers {
            spool.load(number, numbers.last() == Some(&number))?;
        }
        spool.next_segment = numbers.last().map_or(1, |last| last + 1);
        spool.report_damage();
        spool.delete_unneeded()?;
        Ok(spool)
    }

    /// What was found damaged, when the spool was opened and since.
    #[cfg(test)]
    pub(crate) fn damage(&self) -> &[Damage] {
        &self.damage
    }

    /// What the spool holds, by trial and epoch.
    pub fn heads(&self) -> Vec<Head> {
        let head = |(key, entry): (&TrialKey, &Entry)| Head {
            key: key.clone(),
            last_seq: entry.last_seq,
            finish: entry.finish,
            whole: !entry.damaged,
        };
        self.entries.iter().map(head).collect()
    }

    /// What the spool holds of one trial.
    pub fn head(&self, key: &TrialKey) -> Option<Head> {
        let entry = self.entries.get(key)?;
        let whole = !entry.damaged;
        Some(Head { key: key.clone(), last_seq: entry.last_seq, finish: entry.finish, whole })
    }

    /// Bytes on disk.
    pub fn used(&self) -> u64 {
        self.segments.values().sum()
    }

    /// Whether a new trial may be taken.
    pub fn room(&self) -> Room {
        let tight = self.quota / 100 * TIGHT_PERCENT;
        if self.used() >= tight { Room::Tight } else { Room::Free }
    }

    /// Takes the next record of a trial and returns its sequence number, from 1. When this returns it is on disk.
    pub fn append(&mut self, key: &TrialKey, body: &[u8]) -> Result<u64, SpoolError> {
        if body.len() > MAX_RECORD {
            return Err(SpoolError::TooLarge { bytes: body.len() });
        }
        let entry = self.entries.get(key);
        if entry.is_some_and(|entry| entry.finish.is_some()) {
            return Err(SpoolError::Finished(key.clone()));
        }
        let seq = entry.map_or(1, |entry| entry.last_seq + 1);
        let location = self.write(Kind::Data, key, seq, body)?;
        self.entries.entry(key.clone()).or_default().add(seq, body, location);
        Ok(seq)
    }

    /// Writes down that the trial was measured to its end. Asked again, answers the same.
    pub fn finish(&mut self, key: &TrialKey) -> Result<FinishMark, SpoolError> {
        let entry = self.entries.get(key).ok_or_else(|| SpoolError::Unknown(key.clone()))?;
        if entry.damaged {
            return Err(SpoolError::Damaged(key.clone()));
        }
        if let Some(mark) = entry.finish {
            return Ok(mark);
        }
        let mark = FinishMark { last_seq: entry.last_seq, digest: entry.digest() };
        let location = self.write(Kind::Finish, key, mark.last_seq, mark.digest.as_bytes())?;
        if let Some(entry) = self.entries.get_mut(key) {
            entry.add_finish(mark, location.segment);
        }
        Ok(mark)
    }

    /// Records of a trial from `seq` on: the first that can be read and those right behind it, as many as fit into
    /// `max_bytes`, at least one. A record that turns out to be damaged is reported and left out from then on.
    pub fn read_from(&mut self, key: &TrialKey, seq: u64, max_bytes: usize) -> Result<Chunk, SpoolError> {
        let Some(entry) = self.entries.get(key) else { return Ok(Chunk::default()) };
        let places: Vec<_> = entry.records.range(seq..).map(|(&seq, &location)| (seq, location)).collect();
        let mut chunk = Chunk::default();
        let mut bytes = 0;
        for (seq, location) in places {
            let next = chunk.first_seq + chunk.records.len() as u64;
            if !chunk.records.is_empty() && seq != next {
                break;
            }
            let Some(body) = self.read(key, seq, location)? else { continue };
            bytes += body.len();
            if !chunk.records.is_empty() && bytes > max_bytes {
                break;
            }
            if chunk.records.is_empty() {
                chunk.first_seq = seq;
            }
            chunk.records.push(body);
        }
        Ok(chunk)
    }

    /// Number of records of a trial after `seq`.
    pub fn count_after(&self, key: &TrialKey, seq: u64) -> u64 {
        self.entries.get(key).map_or(0, |entry| entry.records.range(seq + 1..).count() as u64)
    }

    /// Forgets a trial: the coordinator has all of it. Segments that hold nothing else are deleted.
    pub fn discard(&mut self, key: &TrialKey) -> Result<(), SpoolError> {
        let Some(entry) = self.entries.remove(key) else { return Ok(()) };
        self.delete_unneeded()?;
        // Where other trials keep a segment alive, a note saves a restarted agent from offering this one again. It need
        // not be there: the coordinator would answer that it has the trial.
        if entry.segments.iter().any(|number| self.segments.contains_key(number)) {
            let note = record::encode(Kind::Discard, key, entry.last_seq, &[]);
            let _ = self.append_bytes(&note);
        }
        Ok(())
    }

    /// Reads one record; `None`, with a report, where it is damaged.
    fn read(&mut self, key: &TrialKey, seq: u64, location: Location) -> Result<Option<Vec<u8>>, SpoolError> {
        let path = self.path(location.segment);
        let bytes = read_part(&path, location).map_err(io_error("read", &path))?;
        let body = record::whole_record(&bytes, 0).and_then(|payload| {
            let envelope = record::decode(&bytes[payload.clone()])?;
            (envelope.key == *key && envelope.seq == seq).then(|| bytes[payload][envelope.body].to_vec())
        });
        if body.is_none() {
            let damage = Damage { path, offset: location.offset, bytes: location.length, torn: false };
            tracing::error!(trial = %key, seq, path = %damage.path.display(), offset = damage.offset,
                "a record in the spool is damaged");
            self.damage.push(damage);
            if let Some(entry) = self.entries.get_mut(key) {
                entry.records.remove(&seq);
                entry.damaged = true;
            }
        }
        Ok(body)
    }

    /// Writes a record that counts.
    fn write(&mut self, kind: Kind, key: &TrialKey, seq: u64, body: &[u8]) -> Result<Location, SpoolError> {
        let bytes = record::encode(kind, key, seq, body);
        let used = self.used();
        // The end of a trial is let through: without it the records before it would have been in vain.
        if kind == Kind::Data && used + bytes.len() as u64 > self.quota {
            return Err(SpoolError::Full { path: self.folder.clone(), used, quota: self.quota });
        }
        let (segment, offset) = self.append_bytes(&bytes)?;
        Ok(Location { segment, offset, length: bytes.len() as u64 })
    }

    /// Appends and syncs. What could not be written whole is cut off again.
    fn append_bytes(&mut self, bytes: &[u8]) -> Result<(u64, u64), SpoolError> {
        let mut active = match self.active.take().filter(|active| active.length < SEGMENT_BYTES) {
            Some(active) => active,
            None => self.new_segment()?,
        };
        let offset = active.length;
        match active.file.write_all(bytes).and_then(|()| active.file.sync_data()) {
            Ok(()) => {
                active.length += bytes.len() as u64;
                self.segments.insert(active.number, active.length);
                let number = active.number;
                self.active = Some(active);
                Ok((number, offset))
            }
            Err(source) => {
                // After a failed write or sync the file is in an unknown state: it is given up for a new one.
                let _ = active.file.set_len(offset).and_then(|()| active.file.sync_data());
                if offset == 0 && fs::remove_file(self.path(active.number)).is_ok() {
                    self.segments.remove(&active.number);
                }
                Err(SpoolError::Io { action: "append to", path: self.path(active.number), source })
            }
        }
    }

    fn new_segment(&mut self) -> Result<Active, SpoolError> {
        let number = self.next_segment;
        let path = self.path(number);
        let file = OpenOptions::new().append(true).create_new(true).open(&path).map_err(io_error("create", &path))?;
        self.next_segment += 1;
        self.segments.insert(number, 0);
        sync_folder(&self.folder).map_err(io_error("sync", &self.folder))?;
        Ok(Active { number, file, length: 0 })
    }

    /// Deletes every segment that no entry needs.
    fn delete_unneeded(&mut self) -> Result<(), SpoolError> {
        let needed: BTreeSet<u64> = self.entries.values().flat_map(|entry| entry.segments.iter().copied()).collect();
        let unneeded: Vec<u64> = self.segments.keys().copied().filter(|number| !needed.contains(number)).collect();
        for &number in &unneeded {
            self.active.take_if(|active| active.number == number);
            let path = self.path(number);
            fs::remove_file(&path).map_err(io_error("delete", &path))?;
            self.segments.remove(&number);
        }
        if !unneeded.is_empty() {
            sync_folder(&self.folder).map_err(io_error("sync", &self.folder))?;
        }
        Ok(())
    }

    /// Reads a segment that an earlier process wrote.
    fn load(&mut self, number: u64, last: bool) -> Result<(), SpoolError> {
        let path = self.path(number);
        let bytes = fs::read(&path).map_err(io_error("read", &path))?;
        let scan = record::scan(&bytes);
        let mut length = bytes.len();
        for bad in scan.bad {
            let torn = last && bad.end == bytes.len();
            if torn {
                length = bad.start;
                truncate(&path, length as u64).map_err(io_error("truncate", &path))?;
            }
            let (offset, bytes) = (bad.start as u64, bad.len() as u64);
            self.damage.push(Damage { path: path.clone(), offset, bytes, torn });
        }
        self.segments.insert(number, length as u64);
        for payload in scan.payloads {
            let offset = (payload.start - record::HEADER) as u64;
            let location = Location { segment: number, offset, length: (payload.len() + record::HEADER) as u64 };
            self.replay(&bytes[payload], location);
        }
        Ok(())
    }

    fn replay(&mut self, payload: &[u8], location: Location) {
        let Some(envelope) = record::decode(payload) else { return };
        let body = &payload[envelope.body];
        match envelope.kind {
            Kind::Data => self.entries.entry(envelope.key).or_default().add(envelope.seq, body, location),
            Kind::Finish => {
                let Ok(digest) = Digest::try_from(body) else { return };
                let mark = FinishMark { last_seq: envelope.seq, digest };
                self.entries.entry(envelope.key).or_default().add_finish(mark, location.segment);
            }
            Kind::Discard => {
                self.entries.remove(&envelope.key);
            }
        }
    }

    fn report_damage(&self) {
        for damage in &self.damage {
            let (path, offset, bytes) = (damage.path.display(), damage.offset, damage.bytes);
            if damage.torn {
                tracing::warn!(%path, offset, bytes, "cut off a record that was not completely written");
            } else {
                tracing::error!(%path, offset, bytes, "the spool is damaged; the records around it are kept");
            }
        }
    }

    fn path(&self, number: u64) -> PathBuf {
        self.folder.join(format!("{SEGMENT_PREFIX}{number:012}{SEGMENT_SUFFIX}"))
    }
}

fn io_error<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> SpoolError + use<'a> {
    move |source| SpoolError::Io { action, path: path.to_owned(), source }
}

fn lock(folder: &Path) -> Result<File, SpoolError> {
    let path = folder.join(LOCK);
    let file =
        OpenOptions::new().write(true).create(true).truncate(false).open(&path).map_err(io_error("open", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(SpoolError::Locked(folder.to_owned())),
        Err(TryLockError::Error(source)) => Err(SpoolError::Io { action: "lock", path, source }),
    }
}

/// Numbers of the segments in the folder, ascending.
fn segment_numbers(folder: &Path) -> Result<Vec<u64>, SpoolError> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(folder).map_err(io_error("read", folder))? {
        let name = entry.map_err(io_error("read", folder))?.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix(SEGMENT_PREFIX)?.strip_suffix(SEGMENT_SUFFIX));
        numbers.extend(number.and_then(|number| number.parse::<u64>().ok()));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

fn truncate(path: &Path, length: u64) -> io::Result<()> {
    let file = OpenOptions::new().write(true).open(path)?;
    file.set_len(length)?;
    file.sync_all()
}

fn read_part(path: &Path, location: Location) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(location.offset))?;
    let mut bytes = Vec::new();
    file.take(location.length).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests;
