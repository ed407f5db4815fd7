//! `regatta report --follow`: the page of a run that goes on, written again until the run has ended.

#![cfg(unix)]

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant, SystemTime};

use serde_json::json;

use crate::harness::{Home, Watchdog};

/// Longer than the page takes to be written again, however busy the machine is; shorter than a device gets to cool down.
const PATIENCE: Duration = Duration::from_secs(100);

/// Says how warm the device is from now on. Never half of it.
pub(crate) fn say(home: &Home, celsius: f64) -> PathBuf {
    let half = home.file("reading.half", &json!({ "cpu_temperature_c": celsius }).to_string());
    let readings = home.path("reading.json");
    std::fs::rename(half, &readings).unwrap();
    readings
}

fn written(page: &Path) -> SystemTime {
    std::fs::metadata(page).unwrap().modified().unwrap()
}

#[test]
fn a_page_follows_its_run_until_that_has_ended() {
    let home = Home::new();
    let readings = say(&home, 40.0);
    let scenario = home.scenario(&["one", "two"], 20, "60s");
    let text = std::fs::read_to_string(&scenario).unwrap().replace("[\"f32\"]", "[\"f32\", \"f16\"]");
    std::fs::write(&scenario, text).unwrap();
    let mut command = home.command(&["run", scenario.to_str().unwrap(), "--cool-down", "--out", "out"]);
    command.env("REGATTA_FAKE_TELEMETRY", readings);
    let mut run = Home::read_events(command);
    run.wait_for(|event| event["event"] == "progress" && event["phase"] == "measuring");
    // The second trial waits until its device has cooled down, which the test decides: half of the run stays undone.
    say(&home, 80.0);
    run.wait_for(|event| event["event"] == "progress" && event["phase"] == "cooling down");

    let mut command = home.command(&["report", "--follow", "--out", "page"]);
    let mut follow = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let watchdog = Watchdog::on(&follow);
    let mut said = BufReader::new(follow.stderr.take().unwrap());
    let mut first = String::new();
    said.read_line(&mut first).unwrap();
    assert!(first.contains("report.html, again every ten seconds; Ctrl-C stops it"), "{first}");
    let page = home.path("page/report.html");
    let half = std::fs::read_to_string(&page).unwrap();
    assert!(half.contains("http-equiv=\"refresh\" content=\"10\""), "a browser looks for it again");
    assert!(
        half.contains("<li><b>4</b><span>cells</span></li>") && half.contains("<li><b class=\"ok\">2</b>"),
        "{half}"
    );
    let (before, begun) = (written(&page), Instant::now());
    while written(&page) == before {
        assert!(begun.elapsed() < PATIENCE, "the page is not written again");
        assert!(follow.try_wait().unwrap().is_none(), "it stopped while the run went on");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(!home.path("page/charts").exists(), "charts as files come with the last page");

    say(&home, 45.0);
    assert_eq!(run.finish().code(), Some(0));
    let mut printed = String::new();
    follow.stdout.take().unwrap().read_to_string(&mut printed).unwrap();
    assert_eq!(follow.wait().unwrap().code(), Some(0));
    watchdog.stand_down();
    assert!(printed.contains("page/report.html") && printed.contains(".png"), "{printed}");
    let whole = std::fs::read_to_string(&page).unwrap();
    assert!(!whole.contains("http-equiv=\"refresh\""), "it is the last one");
    assert!(whole.contains("<li><b class=\"ok\">4</b>"), "{whole}");
    assert_ne!(std::fs::read_dir(home.path("page/charts")).unwrap().count(), 0);
}
