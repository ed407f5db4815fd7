//! The dashboard in a browser while a real run goes on: it moves, it complains of nothing, it asks nobody else for anything.

#![cfg(unix)]

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};

use serde_json::{Value, json};

use crate::browser::Browser;
use crate::follow::say;
use crate::harness::{Home, Watchdog};

/// A process that does not outlive its test.
struct Service {
    child: Child,
    watchdog: Option<Watchdog>,
}

impl Service {
    fn start(mut command: Command) -> Self {
        let child = command.stderr(Stdio::null()).spawn().unwrap();
        let watchdog = Some(Watchdog::on(&child));
        Self { child, watchdog }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.watchdog.take().unwrap().stand_down();
    }
}

/// Two trials: the second one begins when the device has cooled down, which the test decides. The first one lasts for some seconds:
/// until it is over the browser has to have seen it.
fn scenario(home: &Home) -> PathBuf {
    let path = home.scenario(&["chat", "long-prompt", "fault-exit"], 100, "60s");
    let text = std::fs::read_to_string(&path).unwrap();
    let text = text.replace("name = \"test\"", "name = \"tonight\"").replace("[\"f32\"]", "[\"f32\", \"f16\"]");
    std::fs::write(&path, text).unwrap();
    path
}

/// Coordinator with a dashboard, and an agent.
struct Bench {
    home: Home,
    url: String,
    dashboard: String,
    _services: [Service; 2],
}

impl Bench {
    fn start() -> Self {
        let home = Home::new();
        let readings = say(&home, 40.0);
        let nightly = home.scenario(&["chat"], 1, "60s");
        std::fs::rename(nightly, home.path("nightly.toml")).unwrap();
        let schedules = "[[schedule]]\nname = \"nightly\"\ncron = \"30 2 * * *\"\ntime_zone = \"Europe/Berlin\"\nscenario = \"nightly.toml\"\n";
        let schedules = home.file("schedules.toml", schedules);
        let arguments = ["coordinator", "--listen", "127.0.0.1:0", "--dashboard", "127.0.0.1:0", "--schedules"];
        let mut command = home.command(&arguments);
        command.arg(schedules).stdout(Stdio::piped());
        let mut coordinator = Service::start(command);
        let mut lines = BufReader::new(coordinator.child.stdout.take().unwrap());
        let url = format!("http://{}", line(&mut lines, "listening on "));
        let dashboard = line(&mut lines, "dashboard on ");
        let mut command = home.command(&["agent", "--coordinator", &url, "--name", "host-a", "--label", "site=test"]);
        command.env("REGATTA_FAKE_TELEMETRY", readings).stdout(Stdio::null());
        let agent = Service::start(command);
        Self { home, url, dashboard, _services: [coordinator, agent] }
    }

    fn submit(&self) -> String {
        let scenario = scenario(&self.home);
        let output = self.home.regatta(&["submit", scenario.to_str().unwrap(), "--coordinator", &self.url]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }
}

fn line(lines: &mut BufReader<ChildStdout>, beginning: &str) -> String {
    let mut line = String::new();
    lines.read_line(&mut line).unwrap();
    line.trim().strip_prefix(beginning).unwrap_or_else(|| panic!("no '{beginning}' but {line}")).to_owned()
}

/// What is wrong with the page in every light and at every width; pictures of it are kept for people.
fn complaints(browser: &mut Browser, name: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    for (dark, ground) in [(false, "rgb(255, 255, 255)"), (true, "rgb(21, 26, 33)")] {
        for width in [1280, 360] {
            browser.look(width, dark);
            let theme = if dark { "dark" } else { "light" };
            browser.picture(
                &PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("dashboard-{name}-{theme}-{width}.png")),
            );
            let seen = browser.value(
                "(() => {
                   const wide = document.documentElement.clientWidth;
                   const beyond = Array.from(document.querySelectorAll('body *'))
                     .filter((e) => !e.closest('.scroll, pre, .chart, .scrolls') && e.getBoundingClientRect().right > wide + 1)
                     .map((e) => `${e.tagName} ${e.className} ${e.textContent.trim().slice(0, 40)}`).slice(0, 5);
                   return { ground: getComputedStyle(document.body).backgroundColor, beyond,
                            sideways: document.documentElement.scrollWidth > wide };
                 })()",
            );
            if seen != json!({ "ground": ground, "beyond": [], "sideways": false }) {
                wrong.push(format!("{name}, {theme}, {width}: {seen}"));
            }
        }
    }
    browser.look(1280, false);
    wrong
}

#[test]
fn the_dashboard_moves_while_a_run_goes_on() {
    let Some(mut browser) = Browser::start() else {
        #[expect(clippy::print_stdout, reason = "a test that is skipped says why")]
        {
            println!("skipped: no Chromium is installed (looked for chromium and google-chrome in PATH)");
        }
        return;
    };
    let bench = Bench::start();
    let mut wrong = Vec::new();
    browser.look(1280, false);
    browser.open(&bench.dashboard);
    browser.wait_until("document.getElementById('live').dataset.state === 'on'");
    browser.wait_until("document.getElementById('fleet').textContent.includes('ready')");
    let run = bench.submit();
    browser.wait_until("document.querySelector('#active article')");

    // From here on nothing is loaded anew: what changes came by itself.
    browser.open(&format!("{}runs/{run}", bench.dashboard));
    browser.value("window.mark = 'the same page'");
    let ended = "Number(document.getElementById('progress').dataset.ended)";
    browser.wait_until("document.getElementById('progress').textContent.includes('measuring, repetition')");
    browser.wait_until("document.getElementById('progress').textContent.includes('40 °C')");
    say(&bench.home, 80.0);
    browser.wait_until("document.getElementById('progress').textContent.includes('cooling down')");
    browser.wait_until(&format!("{ended} === 3"));
    let states = "Array.from(document.querySelectorAll('#matrix td'), (cell) => cell.className).sort().join(' ')";
    browser.wait_until(&format!("{states} === 'crashed ok ok running waiting waiting'"));
    wrong.extend(complaints(&mut browser, "run"));
    say(&bench.home, 45.0);
    browser.wait_until("document.querySelector('#progress .state').textContent === 'done'");
    browser.wait_until(&format!("{ended} === 6"));
    assert_eq!(browser.value("window.mark"), json!("the same page"));
    assert_eq!(browser.value("document.querySelector('h1').textContent"), json!("tonight"));

    browser.open(&format!("{}cells?q=fake+chat", bench.dashboard));
    wrong.extend(complaints(&mut browser, "cells"));
    let cell = browser.value("document.querySelector('tbody a').href");
    for (name, address) in [
        ("fleet", bench.dashboard.clone()),
        ("runs", format!("{}runs", bench.dashboard)),
        ("cell", cell.as_str().unwrap().to_owned()),
        ("schedules", format!("{}schedules", bench.dashboard)),
        ("report", format!("{}runs/{run}/report", bench.dashboard)),
        ("missing", format!("{}cells/0123456789abcdef", bench.dashboard)),
    ] {
        browser.open(&address);
        wrong.extend(complaints(&mut browser, name));
        if name == "cell" {
            assert_eq!(browser.value("document.querySelectorAll('figure svg').length"), json!(2), "decode and prefill");
        }
        if name == "report" {
            assert!(browser.value("document.title").as_str().unwrap().contains("Regatta report"));
            assert_ne!(browser.value("document.querySelectorAll('figure svg').length"), json!(0));
        }
    }
    assert_eq!(wrong, Vec::<String>::new());

    let said = browser.said();
    let is_ours = |address: &&String| address.starts_with(&bench.dashboard) || address.starts_with("data:");
    assert_eq!(said.requests.iter().find(|address| !is_ours(address)), None, "nobody else is asked for anything");
    // The page that is missing is told as an error, as it should be.
    let wrong: Vec<&String> = said.complaints.iter().filter(|text| !text.contains("0123456789abcdef")).collect();
    assert_eq!(wrong, Vec::<&String>::new(), "nothing to complain about");
}

#[test]
fn a_person_signs_in_with_a_token_and_out_again() {
    let Some(mut browser) = Browser::start() else {
        #[expect(clippy::print_stdout, reason = "a test that is skipped says why")]
        {
            println!("skipped: no Chromium is installed (looked for chromium and google-chrome in PATH)");
        }
        return;
    };
    let home = Home::new();
    let token = home.regatta(&["token", "create", "--role", "viewer", "--name", "board"]);
    let token = String::from_utf8(token.stdout).unwrap();
    let token = token.split_whitespace().find(|word| word.starts_with("rgt_")).unwrap().to_owned();
    let mut command = home.command(&["coordinator", "--listen", "127.0.0.1:0", "--dashboard", "127.0.0.1:0"]);
    command.args(["--require-token", "--log-format", "json", "--log", "trace"]).stdout(Stdio::piped());
    let log = home.path("log");
    let mut coordinator = {
        let child = command.stderr(std::fs::File::create(&log).unwrap()).spawn().unwrap();
        let watchdog = Some(Watchdog::on(&child));
        Service { child, watchdog }
    };
    let mut lines = BufReader::new(coordinator.child.stdout.take().unwrap());
    line(&mut lines, "listening on ");
    let dashboard = line(&mut lines, "dashboard on ");

    browser.look(1280, false);
    browser.open(&format!("{dashboard}runs"));
    assert_eq!(browser.value("document.querySelector('h1').textContent"), json!("Sign in"));
    let wrong = complaints(&mut browser, "sign-in");
    assert_eq!(wrong, Vec::<String>::new());
    // Without scripts: the form is sent as a browser sends it.
    let submit = |browser: &mut Browser, token: &str| {
        browser.value(&format!("document.querySelector('[name=token]').value = '{token}'; 1"));
        browser.value("document.querySelector('form.login').requestSubmit(); 1");
    };
    submit(&mut browser, "rgt_nonsense");
    wait_for_page(&mut browser, "document.querySelector('.wrong')");
    submit(&mut browser, &token);
    wait_for_page(&mut browser, "location.pathname === '/runs' && document.querySelector('h1').textContent === 'Runs'");
    assert_eq!(browser.value("document.cookie"), json!(""), "no script sees the session");
    browser.value("document.querySelector('form.out').requestSubmit(); 1");
    wait_for_page(&mut browser, "document.querySelector('h1').textContent === 'Sign in'");
    drop(coordinator);
    let log = std::fs::read_to_string(log).unwrap();
    let secret = token.rsplit('_').next().unwrap();
    assert!(!log.contains(secret) && log.contains("nobody was let into the dashboard"), "{log}");
    let asked: Vec<Value> = browser.said().requests.into_iter().map(Value::from).collect();
    assert!(asked.iter().all(|address| !address.as_str().unwrap().contains(secret)), "{asked:?}");
}

/// Waits for the page that a form leads to: it is another one, so it can't be waited for from within.
fn wait_for_page(browser: &mut Browser, expression: &str) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while browser.value(&format!("document.readyState === 'complete' && Boolean({expression})")) != json!(true) {
        assert!(std::time::Instant::now() < deadline, "this did not come true: {expression}");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}
