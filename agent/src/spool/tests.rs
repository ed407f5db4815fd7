use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

const QUOTA: u64 = 64 * 1024 * 1024;

fn key(trial: u32, epoch: u32) -> TrialKey {
    TrialKey { trial: format!("run.t{trial}").parse().unwrap(), epoch: Epoch(epoch) }
}

fn open(folder: &TempDir) -> Spool {
    Spool::open(folder.path(), QUOTA).unwrap()
}

fn segments(folder: &TempDir) -> Vec<PathBuf> {
    let numbers = segment_numbers(folder.path()).unwrap();
    numbers.iter().map(|n| folder.path().join(format!("{SEGMENT_PREFIX}{n:012}{SEGMENT_SUFFIX}"))).collect()
}

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 0x40;
    fs::write(path, bytes).unwrap();
}

fn bodies(spool: &mut Spool, key: &TrialKey) -> Vec<(u64, Vec<u8>)> {
    let mut all = Vec::new();
    let mut next = 1;
    loop {
        let chunk = spool.read_from(key, next, usize::MAX).unwrap();
        if chunk.records.is_empty() {
            return all;
        }
        next = chunk.first_seq + chunk.records.len() as u64;
        all.extend((chunk.first_seq..).zip(chunk.records));
    }
}

#[test]
fn records_and_the_end_survive_a_restart() {
    let folder = TempDir::new().unwrap();
    let mut spool = open(&folder);
    let (first, second) = (key(0, 1), key(1, 2));
    assert_eq!(spool.append(&first, b"a").unwrap(), 1);
    assert_eq!(spool.append(&second, b"x").unwrap(), 1);
    assert_eq!(spool.append(&first, b"b").unwrap(), 2);
    let mark = spool.finish(&first).unwrap();
    let digest = |bodies: [&[u8]; 2]| Digest::over(bodies.map(Digest::of));
    assert_eq!(mark, FinishMark { last_seq: 2, digest: digest([b"a", b"b"]) });
    let heads = spool.heads();
    drop(spool);

    let mut spool = open(&folder);
    assert_eq!(spool.heads(), heads);
    assert_eq!(spool.finish(&first).unwrap(), mark);
    assert_eq!(bodies(&mut spool, &first), [(1, b"a".to_vec()), (2, b"b".to_vec())]);
    assert!(matches!(spool.append(&first, b"c"), Err(SpoolError::Finished(_))));
    assert_eq!(spool.append(&second, b"y").unwrap(), 2);
    assert_eq!(spool.finish(&second).unwrap().digest, digest([b"x", b"y"]));
    assert!(spool.damage().is_empty());
}

#[test]
fn a_folder_belongs_to_one_spool() {
    let folder = TempDir::new().unwrap();
    let spool = open(&folder);
    let error = Spool::open(folder.path(), QUOTA).err().unwrap();
    assert!(matches!(error, SpoolError::Locked(_)));
    assert!(error.to_string().contains("in use by another agent"), "{error}");
    drop(spool);
    open(&folder);
}

#[test]
fn what_is_no_longer_needed_is_deleted_and_stays_so() {
    let folder = TempDir::new().unwrap();
    let mut spool = open(&folder);
    spool.append(&key(0, 1), b"a").unwrap();
    spool.append(&key(1, 1), b"b").unwrap();
    spool.discard(&key(0, 1)).unwrap();
    assert_eq!(segments(&folder).len(), 1);
    drop(spool);

    let mut spool = open(&folder);
    assert_eq!(spool.heads().len(), 1);
    spool.discard(&key(1, 1)).unwrap();
    assert_eq!(segments(&folder), Vec::<PathBuf>::new());
    assert_eq!(spool.used(), 0);
    spool.append(&key(2, 1), b"c").unwrap();
    assert_eq!(bodies(&mut spool, &key(2, 1)), [(1, b"c".to_vec())]);
}

#[test]
fn a_long_trial_is_spread_over_segments() {
    let folder = TempDir::new().unwrap();
    let mut spool = open(&folder);
    let body = vec![7; 3 * 1024 * 1024];
    for seq in 1..=7 {
        assert_eq!(spool.append(&key(0, 1), &body).unwrap(), seq);
    }
    assert!(segments(&folder).len() >= 2);
    drop(spool);
    let mut spool = open(&folder);
    assert_eq!(bodies(&mut spool, &key(0, 1)).len(), 7);
    let chunk = spool.read_from(&key(0, 1), 3, 7 * 1024 * 1024).unwrap();
    assert_eq!((chunk.first_seq, chunk.records.len()), (3, 2));
    let single = spool.read_from(&key(0, 1), 7, 1).unwrap();
    assert_eq!((single.first_seq, single.records.len()), (7, 1));
    spool.discard(&key(0, 1)).unwrap();
    assert_eq!(segments(&folder), Vec::<PathBuf>::new());
}

#[test]
fn a_record_damaged_in_the_middle_is_reported_and_the_others_are_delivered() {
    let folder = TempDir::new().unwrap();
    let mut spool = open(&folder);
    for body in [b"one", b"two", b"six"] {
        spool.append(&key(0, 1), body).unwrap();
    }
    spool.finish(&key(0, 1)).unwrap();
    drop(spool);
    let path = segments(&folder).remove(0);
    let at = fs::read(&path).unwrap().windows(3).position(|window| window == b"two").unwrap();
    flip(&path, at);

    let mut spool = open(&folder);
    assert_eq!(bodies(&mut spool, &key(0, 1)), [(1, b"one".to_vec()), (3, b"six".to_vec())]);
    assert_eq!(spool.damage().len(), 1);
    assert!(!spool.damage()[0].torn);
    assert!(!spool.heads()[0].whole);
    assert!(matches!(spool.finish(&key(0, 1)), Err(SpoolError::Damaged(_))));
}

#[test]
fn a_record_that_is_damaged_while_the_spool_is_open_is_left_out() {
    let folder = TempDir::new().unwrap();
    let mut spool = open(&folder);
    spool.append(&key(0, 1), b"one").unwrap();
    spool.append(&key(0, 1), b"two").unwrap();
    let path = segments(&folder).remove(0);
    let at = fs::read(&path).unwrap().windows(3).position(|window| window == b"one").unwrap();
    flip(&path, at);
    assert_eq!(bodies(&mut spool, &key(0, 1)), [(2, b"two".to_vec())]);
    assert_eq!(spool.damage().len(), 1);
}

#[test]
fn a_lost_record_shows_even_when_it_was_the_last_one() {
    let folder = TempDir::new().unwrap();
    let mut spool = open(&folder);
    spool.append(&key(0, 1), b"one").unwrap();
    spool.append(&key(0, 1), b"two").unwrap();
    spool.finish(&key(0, 1)).unwrap();
    drop(spool);
    let path = segments(&folder).remove(0);
    let at = fs::read(&path).unwrap().windows(3).position(|window| window == b"two").unwrap();
    flip(&path, at);
    let spool = open(&folder);
    assert!(!spool.heads()[0].whole);
    assert_eq!(spool.heads()[0].last_seq, 2);
}

#[test]
fn a_full_spool_says_so_and_still_takes_the_end_of_a_trial() {
    let folder = TempDir::new().unwrap();
    let mut spool = Spool::open(folder.path(), 1000).unwrap();
    let key = key(0, 1);
    let mut taken = 0;
    let error = loop {
        match spool.append(&key, &[0; 50]) {
            Ok(seq) => taken = seq,
            Err(error) => break error,
        }
        if spool.used() >= 800 {
            assert_eq!(spool.room(), Room::Tight);
        } else {
            assert_eq!(spool.room(), Room::Free);
        }
    };
    assert!(matches!(error, SpoolError::Full { .. }), "{error}");
    assert!(error.to_string().contains("raise the spool quota"), "{error}");
    assert_eq!(spool.finish(&key).unwrap().last_seq, taken);
}

#[test]
fn a_record_that_no_message_could_carry_is_refused() {
    let folder = TempDir::new().unwrap();
    let error = open(&folder).append(&key(0, 1), &vec![0; MAX_RECORD + 1]).unwrap_err();
    assert!(matches!(error, SpoolError::TooLarge { .. }));
}

#[cfg(target_os = "linux")]
#[test]
fn a_failed_write_leaves_nothing_half_written() {
    let folder = TempDir::new().unwrap();
    let mut spool = open(&folder);
    spool.append(&key(0, 1), b"one").unwrap();
    // A file that is open for reading only refuses writes, as a full disk does.
    if let Some(active) = &mut spool.active {
        active.file = File::open(spool.folder.join("segment-000000000001.log")).unwrap();
    }
    assert!(matches!(spool.append(&key(0, 1), b"two"), Err(SpoolError::Io { .. })));
    assert_eq!(spool.append(&key(0, 1), b"two").unwrap(), 2);
    drop(spool);
    let mut spool = open(&folder);
    assert_eq!(bodies(&mut spool, &key(0, 1)), [(1, b"one".to_vec()), (2, b"two".to_vec())]);
    assert!(spool.damage().is_empty());
}

proptest! {
    // Each case syncs files, so there are few; the byte-by-byte fuzz is in `record`.
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn a_crash_at_any_byte_leaves_whole_records_and_a_usable_spool(
        records in proptest::collection::vec((0u32..3, proptest::collection::vec(any::<u8>(), 0..80)), 1..10),
        cut in any::<proptest::sample::Index>(),
    ) {
        let folder = TempDir::new().unwrap();
        let mut spool = open(&folder);
        let mut ends = Vec::new();
        for (trial, body) in &records {
            let seq = spool.append(&key(*trial, 1), body).unwrap();
            ends.push((key(*trial, 1), seq, body.clone(), spool.used()));
        }
        drop(spool);
        let path = segments(&folder).remove(0);
        let size = fs::metadata(&path).unwrap().len();
        let cut = cut.index(usize::try_from(size).unwrap() + 1) as u64;
        truncate(&path, cut).unwrap();

        let mut spool = open(&folder);
        let whole: Vec<_> = ends.iter().filter(|(.., end)| *end <= cut).collect();
        let torn = !ends.iter().any(|(.., end)| *end == cut) && cut > 0;
        prop_assert_eq!(spool.damage().iter().filter(|damage| damage.torn).count(), usize::from(torn));
        for trial in 0..3 {
            let expected: Vec<_> = whole
                .iter()
                .filter(|(k, ..)| *k == key(trial, 1))
                .map(|(_, seq, body, _)| (*seq, body.clone()))
                .collect();
            prop_assert_eq!(bodies(&mut spool, &key(trial, 1)), expected);
        }
        let seq = spool.append(&key(0, 1), b"after the crash").unwrap();
        drop(spool);
        let mut spool = open(&folder);
        prop_assert_eq!(bodies(&mut spool, &key(0, 1)).last().cloned(), Some((seq, b"after the crash".to_vec())));
        prop_assert!(spool.damage().is_empty());
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_takes_whole_records_or_none_and_more_when_there_is_room_again() {
    let folder = TempDir::new().unwrap();
    let mount = |arguments: &[&str]| std::process::Command::new("mount").args(arguments).arg(folder.path()).output();
    let mounted = mount(&["-t", "tmpfs", "-o", "size=256k", "tmpfs"]);
    if !mounted.as_ref().is_ok_and(|output| output.status.success()) {
        #[expect(clippy::print_stdout, reason = "a test that is skipped says why")]
        {
            println!("skipped: a small file system can't be mounted here: {mounted:?}");
        }
        return;
    }
    let spool_folder = folder.path().join("spool");
    let mut spool = Spool::open(&spool_folder, QUOTA).unwrap();
    let key = key(0, 1);
    let mut taken = 0;
    let error = loop {
        match spool.append(&key, &[7; 3000]) {
            Ok(seq) => taken = seq,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, SpoolError::Io { .. }), "{error}");
    assert!(taken > 10, "{taken}");
    drop(spool);
    let mut spool = Spool::open(&spool_folder, QUOTA).unwrap();
    assert_eq!(bodies(&mut spool, &key).len() as u64, taken);
    assert!(spool.damage().is_empty(), "nothing half-written: {:?}", spool.damage());
    // Everything was delivered: there is room again.
    spool.discard(&key).unwrap();
    assert_eq!(spool.append(&key, &[7; 3000]).unwrap(), 1);
    drop(spool);
    let unmounted = std::process::Command::new("umount").arg("-l").arg(folder.path()).status().unwrap();
    assert!(unmounted.success());
}
