//! Headless Chromium, told what to do over a pipe (its protocol for developers): what a page shows, asks for and complains about.

#![cfg(unix)]

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use crate::harness::Watchdog;

/// A browser with one page.
pub(crate) struct Browser {
    child: Child,
    watchdog: Option<Watchdog>,
    to: File,
    from: BufReader<File>,
    asked: u64,
    session: Option<String>,
    /// What it has told without being asked.
    told: Vec<Value>,
    _folder: tempfile::TempDir,
}

/// The browser, by the names under which systems install it.
fn program() -> Option<PathBuf> {
    const NAMES: [&str; 5] = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome"];
    let folders: Vec<PathBuf> = std::env::split_paths(&std::env::var_os("PATH")?).collect();
    let mut found = NAMES.iter().flat_map(|name| folders.iter().map(move |folder| folder.join(name)));
    found.find(|path| path.is_file())
}

fn pipe(path: &Path) {
    assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
}

impl Browser {
    /// Starts it; `None` where none is installed.
    pub(crate) fn start() -> Option<Self> {
        let program = program()?;
        let folder = tempfile::tempdir().unwrap();
        let (to, from) = (folder.path().join("to"), folder.path().join("from"));
        pipe(&to);
        pipe(&from);
        let child = Command::new("sh")
            // The browser reads commands from descriptor 3, and answers on 4.
            .args(["-c", "exec \"$@\" 3<\"$TO\" 4>\"$FROM\"", "sh"])
            .arg(program)
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", "--hide-scrollbars"])
            .args(["--disable-background-networking", "--disable-component-update", "--no-first-run", "--disable-sync"])
            // Whatever asks for a name gets none: nothing leaves this machine.
            .arg("--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1")
            .arg(format!("--user-data-dir={}", folder.path().join("profile").display()))
            .env("TO", &to)
            .env("FROM", &from)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let watchdog = Some(Watchdog::on(&child));
        // In the order in which the shell opens them: each waits for the other end.
        let to = File::options().write(true).open(to).unwrap();
        let from = BufReader::new(File::open(from).unwrap());
        let mut browser =
            Self { child, watchdog, to, from, asked: 0, session: None, told: Vec::new(), _folder: folder };
        let target = browser.call("Target.createTarget", &json!({ "url": "about:blank" }));
        let attach = json!({ "targetId": target["targetId"], "flatten": true });
        let session = browser.call("Target.attachToTarget", &attach)["sessionId"].as_str().unwrap().to_owned();
        browser.session = Some(session);
        for domain in ["Page", "Runtime", "Network", "Log"] {
            browser.call(&format!("{domain}.enable"), &json!({}));
        }
        Some(browser)
    }

    /// Asks it to do something, and waits for what comes of it.
    pub(crate) fn call(&mut self, method: &str, parameters: &Value) -> Value {
        self.asked += 1;
        let mut message = json!({ "id": self.asked, "method": method, "params": parameters });
        if let Some(session) = &self.session {
            message["sessionId"] = json!(session);
        }
        self.to.write_all(format!("{message}\0").as_bytes()).unwrap();
        loop {
            let mut answer = self.read();
            if answer["id"] == json!(self.asked) {
                assert!(answer["error"].is_null(), "{method}: {answer}");
                return answer["result"].take();
            }
            self.told.push(answer);
        }
    }

    fn read(&mut self) -> Value {
        let mut bytes = Vec::new();
        self.from.read_until(0, &mut bytes).unwrap();
        assert_eq!(bytes.pop(), Some(0), "the browser ended");
        serde_json::from_slice(&bytes).unwrap()
    }

    /// Opens a page, and waits until it is there.
    pub(crate) fn open(&mut self, address: &str) {
        let loaded = |told: &[Value]| told.iter().filter(|event| event["method"] == "Page.loadEventFired").count();
        let before = loaded(&self.told);
        let opened = self.call("Page.navigate", &json!({ "url": address }));
        assert!(opened["errorText"].is_null(), "{address}: {opened}");
        while loaded(&self.told) == before {
            let event = self.read();
            self.told.push(event);
        }
    }

    /// The value of an expression in the page; a promise is waited for.
    pub(crate) fn value(&mut self, expression: &str) -> Value {
        let parameters = json!({ "expression": expression, "returnByValue": true, "awaitPromise": true });
        let mut answer = self.call("Runtime.evaluate", &parameters);
        assert!(answer["exceptionDetails"].is_null(), "{expression}: {answer:#}");
        answer["result"]["value"].take()
    }

    /// Waits until an expression holds in the page as it changes.
    pub(crate) fn wait_until(&mut self, expression: &str) {
        let waited = self.value(&format!(
            "new Promise((done) => {{
               const look = () => {{ if ({expression}) done('') }};
               new MutationObserver(look).observe(document, {{ subtree: true, childList: true, characterData: true, attributes: true }});
               setTimeout(() => done(document.body.innerText), 60000);
               look();
             }})"
        ));
        assert_eq!(waited, "", "this did not come true: {expression}");
    }

    /// Shows the page as on a screen of that width.
    pub(crate) fn look(&mut self, width: u32, dark: bool) {
        let metrics = json!({ "width": width, "height": 900, "deviceScaleFactor": 1, "mobile": false });
        self.call("Emulation.setDeviceMetricsOverride", &metrics);
        let scheme = json!({ "name": "prefers-color-scheme", "value": if dark { "dark" } else { "light" } });
        self.call("Emulation.setEmulatedMedia", &json!({ "features": [scheme] }));
    }

    /// Writes what is to be seen of the whole page to a file.
    pub(crate) fn picture(&mut self, path: &Path) {
        let parameters = json!({ "format": "png", "captureBeyondViewport": true });
        let picture = self.call("Page.captureScreenshot", &parameters);
        let picture = decoded(picture["data"].as_str().unwrap());
        std::fs::write(path, picture).unwrap();
    }

    /// What it has asked for, and what it complained about, since the last time.
    pub(crate) fn said(&mut self) -> Said {
        // Whatever was told before this answer has been read.
        self.value("1");
        let told = std::mem::take(&mut self.told);
        let of = |method: &'static str| told.iter().filter(move |event| event["method"] == method);
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let logged = of("Log.entryAdded").map(|event| event["params"]["entry"].to_string());
        let called = of("Runtime.consoleAPICalled").map(|event| event["params"].to_string());
        let thrown = of("Runtime.exceptionThrown").map(|event| event["params"].to_string());
        Said {
            requests: of("Network.requestWillBeSent").map(|event| text(&event["params"]["request"]["url"])).collect(),
            complaints: logged.chain(called).chain(thrown).collect(),
        }
    }
}

/// What a browser says of a page.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) requests: Vec<String>,
    /// Errors, warnings, whatever a script writes.
    pub(crate) complaints: Vec<String>,
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(watchdog) = self.watchdog.take() {
            watchdog.stand_down();
        }
    }
}

/// Base64, the common one.
fn decoded(text: &str) -> Vec<u8> {
    const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut held) = (0_u32, 0);
    for letter in text.bytes().filter(|letter| *letter != b'=') {
        let value = LETTERS.iter().position(|known| *known == letter).unwrap();
        bits = bits << 6 | u32::try_from(value).unwrap();
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push(u8::try_from(bits >> held & 0xff).unwrap());
        }
    }
    bytes
}
