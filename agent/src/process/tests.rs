use super::*;

fn sh(script: &str) -> io::Result<Process> {
    Surroundings::default().start(Path::new("/bin/sh"), &["-c", script])
}

async fn ending(script: &str) -> Ending {
    sh(script).unwrap().end(Duration::from_secs(20)).await
}

#[tokio::test]
async fn exit_codes_signals_and_last_words_are_told_apart() {
    let exit = ending("echo broken >&2; exit 3").await;
    assert_eq!((exit.status, exit.stderr.as_str(), exit.killed), (Some(Status::Exit(3)), "broken\n", false));
    let segv = ending("kill -SEGV $$").await;
    assert_eq!(segv.status, Some(Status::Signal { name: "SIGSEGV".to_owned(), kill: false }));
    let kill = ending("kill -KILL $$").await;
    assert_eq!(kill.status, Some(Status::Signal { name: "SIGKILL".to_owned(), kill: true }));
    assert!(!kill.out_of_memory);
}

#[tokio::test]
async fn a_kill_with_a_counter_that_went_up_is_out_of_memory() {
    let folder = tempfile::tempdir().unwrap();
    let counter = folder.path().join("memory.events");
    std::fs::write(&counter, "oom_kill 0\n").unwrap();
    let surroundings = Surroundings { oom_counters: Some(vec![counter.clone()]), ..Surroundings::default() };
    let script = format!("echo 'oom_kill 1' > {}; kill -KILL $$", counter.display());
    let process = surroundings.start(Path::new("/bin/sh"), &["-c", &script]).unwrap();
    assert!(process.end(Duration::from_secs(20)).await.out_of_memory);
}

/// Waits for a process of this id to be dead: gone, or a zombie that nobody has collected yet.
async fn dies(id: &str) {
    let dead = async || {
        let state = Command::new("ps").args(["-o", "stat=", "-p", id]).output().await.unwrap().stdout;
        matches!(state.trim_ascii().first(), None | Some(b'Z'))
    };
    timeout(Duration::from_mins(1), async { while !dead().await {} }).await.expect("the grandchild lives");
}

/// Reads the id of a grandchild that a script wrote behind a line end.
async fn grandchild(process: &mut Process) -> String {
    let mut id = Vec::new();
    while id.last() != Some(&b'\n') {
        assert_ne!(process.frames.pipe().read_buf(&mut id).await.unwrap(), 0, "no id came");
    }
    String::from_utf8(id).unwrap().trim().to_owned()
}

#[tokio::test]
async fn a_process_that_stays_is_killed_with_its_children() {
    let mut process = sh("sleep 600 & echo $!; wait").unwrap();
    let id = grandchild(&mut process).await;
    assert!(process.end(Duration::ZERO).await.killed);
    dies(&id).await;
}

#[tokio::test]
async fn children_of_a_process_that_ended_by_itself_are_killed_too() {
    let mut process = sh("sleep 600 & echo $!; kill -ABRT $$").unwrap();
    let id = grandchild(&mut process).await;
    let ending = process.end(Duration::from_secs(20)).await;
    assert_eq!(ending.status, Some(Status::Signal { name: "SIGABRT".to_owned(), kill: false }));
    dies(&id).await;
}

#[tokio::test]
async fn a_process_that_is_dropped_is_killed_with_its_children() {
    let mut process = sh("sleep 600 & echo $!; wait").unwrap();
    let id = grandchild(&mut process).await;
    drop(process);
    dies(&id).await;
}

#[tokio::test]
async fn the_environment_is_clean_but_for_what_was_asked_for() {
    let surroundings = Surroundings { extra: vec![("REGATTA_TEST".into(), "x".into())], oom_counters: None };
    let args = ["-c", "env"];
    let text = surroundings.output(Path::new("/bin/sh"), &args, Duration::from_secs(20), 100_000).await.unwrap();
    assert!(text.contains("REGATTA_TEST=x"), "{text}");
    assert!(!text.contains("CARGO"), "{text}");
}

#[tokio::test]
async fn output_is_bounded_in_time_and_size() {
    let run = async |script: &str, deadline| {
        let args = ["-c", script];
        Surroundings::default().output(Path::new("/bin/sh"), &args, deadline, 1000).await
    };
    let late = run("sleep 600", Duration::from_millis(100)).await.unwrap_err();
    assert!(matches!(late, RunError::Deadline { .. }), "{late:?}");
    let long = run("yes", Duration::from_secs(20)).await.unwrap_err();
    assert!(matches!(long, RunError::Output { .. }), "{long:?}");
    let failed = run("echo no library >&2; exit 127", Duration::from_secs(20)).await.unwrap_err();
    assert!(matches!(&failed, RunError::Failed(ending) if ending.stderr.contains("no library")), "{failed:?}");
    assert!(matches!(
        Surroundings::default().output(Path::new("/nowhere"), &["x"], Duration::from_secs(1), 1).await,
        Err(RunError::Start(_))
    ));
}
