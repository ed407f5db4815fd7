//! `regatta doctor`: what keeps this machine from measuring, or its numbers from being worth much, with a fix for each.

use std::fmt::Write;

use clap::Args;
use regatta_agent::doctor::{self, Coordinator, Facts, Finding, Level, Machine};
use regatta_core::id::is_unprintable;
use regatta_proto::pb;
use serde_json::json;
use tonic::Code;

use crate::connect::ConnectArgs;
use crate::exit::{BadInput, Exit};
use crate::local;
use crate::output;
use crate::paths::Folders;
use crate::rpc;

/// How wide a line may be.
const WIDTH: usize = 110;

/// Where the text of a finding begins.
const INDENT: usize = 22;

/// Arguments of `regatta doctor`.
#[derive(Debug, Args)]
#[command(after_help = "\
Looks and changes nothing, and needs no special rights. Problems keep this machine from measuring; warnings make its numbers worse or less
steady than they could be; notes are worth knowing.

Examples:
  regatta doctor                                         before the first run, or when numbers look odd
  regatta doctor --coordinator https://bench:7600        also whether a coordinator can be reached with what is set here
  regatta doctor --json | jq '.findings[] | select(.level == \"problem\")'

Exit codes: 0 this machine can measure, 1 it can't, 2 bad input")]
pub(crate) struct DoctorArgs {
    #[command(flatten)]
    connect: ConnectArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Looks at everything and says what was found.
pub(crate) async fn run(args: DoctorArgs, folders: &Folders) -> anyhow::Result<Exit> {
    let (agent, _spool) = local::look(folders).await?;
    let (machine, coordinator) = tokio::join!(Machine::examine(&agent), reach(&args.connect));
    let disks = vec![
        doctor::disk("results", &folders.home()?),
        doctor::disk("weights", &folders.model_root()?),
        doctor::disk("samples on their way", &folders.home()?.join("spool")),
    ];
    let findings = doctor::findings(&Facts { machine, disks, coordinator: coordinator? });
    let can_measure = findings.iter().all(|finding| finding.level < Level::Problem);
    if args.json {
        output::json(&json!({ "can_measure": can_measure, "findings": findings }));
    } else {
        output::text(&text(&findings));
    }
    Ok(if can_measure { Exit::Done } else { Exit::Failed })
}

/// Tries the coordinator, where one is named. An address or a file that can't be right is bad input.
async fn reach(connect: &ConnectArgs) -> Result<Coordinator, BadInput> {
    if connect.named().is_none() {
        return Ok(Coordinator::NotNamed);
    }
    let address = connect.connection()?.described();
    let failed = |reason: String| Ok(Coordinator::Failed { address: address.clone(), reason });
    let mut client = match connect.client().await {
        Ok(client) => client,
        Err(error) => {
            let reason = format!("{error:#}");
            let known = format!("can't reach the coordinator at {address}: ");
            return failed(reason.strip_prefix(&known).unwrap_or(&reason).to_owned());
        }
    };
    match client.list_agents(rpc::request(pb::ListAgentsRequest {})).await {
        Ok(_) => Ok(Coordinator::Reached { address, limits: None }),
        // An agent may not list agents: whoever is told so has shown a token that is known.
        Err(status) if status.code() == Code::PermissionDenied => {
            Ok(Coordinator::Reached { address, limits: Some(plain(status.message())) })
        }
        Err(status) => failed(plain(&rpc::reason(&status))),
    }
}

/// Text from elsewhere, without a say over the terminal.
fn plain(text: &str) -> String {
    text.chars().map(|c| if is_unprintable(c) { ' ' } else { c }).collect()
}

/// One screen: a verdict, what is wrong with its reason and its fix, then in a line each what is well.
fn text(findings: &[Finding]) -> String {
    let mut text = format!("{}\n\n", verdict(findings));
    for finding in findings {
        let _ = writeln!(text, "{:<9}{:<13}{}", finding.level.as_str(), finding.check, wrapped(&finding.what));
        for (word, said) in [("why", &finding.why), ("fix", &finding.fix)] {
            if let Some(said) = said {
                let _ = writeln!(text, "{:22}{word}: {}", "", wrapped(said));
            }
        }
    }
    text
}

fn verdict(findings: &[Finding]) -> String {
    let count = |level: Level| findings.iter().filter(|finding| finding.level == level).count();
    let things = |n: usize| if n == 1 { "1 thing".to_owned() } else { format!("{n} things") };
    match (count(Level::Problem), count(Level::Warning)) {
        (0, 0) => "This machine can measure.".to_owned(),
        (0, n) => format!("This machine can measure; {} would make its numbers better.", things(n)),
        (n, _) => format!("This machine can't measure well as it is: see the {} marked 'problem'.", things(n)),
    }
}

/// The text in lines that fit, the later ones under the first.
fn wrapped(text: &str) -> String {
    let mut lines = String::new();
    let mut width = 0;
    for word in text.split_whitespace() {
        let length = word.chars().count();
        if width > 0 && width + 1 + length > WIDTH - INDENT {
            let _ = write!(lines, "\n{:INDENT$}  ", "");
            width = 2;
        } else if width > 0 {
            lines.push(' ');
            width += 1;
        }
        lines.push_str(word);
        width += length;
    }
    lines
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use regatta_agent::doctor::{Card, Disk, Nvidia};

    use super::*;

    fn facts() -> Facts {
        let card = Card {
            device: "cuda:0".parse().unwrap(),
            users: vec!["Xorg (812)".to_owned()],
            is_persistent: Some(true),
            clocks_are_set: false,
        };
        Facts {
            machine: Machine {
                nvidia: Nvidia::Here { driver: "580.82.07".to_owned(), cards: vec![card] },
                busy_processors: Some(1.4),
                governor: Some("powersave".to_owned()),
                boost: Some(true),
                huge_pages: Some("never".to_owned()),
                memory_available_bytes: Some(20 << 30),
                energy_denied: Some(PathBuf::from("/sys/class/powercap/intel-rapl:0/energy_uj")),
                clock_is_synchronised: Some(true),
                ..Machine::default()
            },
            disks: vec![Disk { holds: "results", path: PathBuf::from("/home/ada/regatta"), free: Ok(300 << 30) }],
            coordinator: Coordinator::Failed {
                address: "https://bench:7600".to_owned(),
                reason: "connection refused; is a coordinator running there, and is the address right?".to_owned(),
            },
        }
    }

    #[test]
    fn findings_in_text() {
        insta::assert_snapshot!(text(&doctor::findings(&facts())));
    }

    #[test]
    fn findings_in_json() {
        let findings = doctor::findings(&facts());
        insta::assert_snapshot!(serde_json::to_string_pretty(&findings[..2]).unwrap());
    }

    #[test]
    fn the_verdict_counts() {
        let of = |level| Finding { check: "x", level, what: String::new(), why: None, fix: None };
        assert_eq!(verdict(&[of(Level::Ok), of(Level::Note)]), "This machine can measure.");
        assert!(verdict(&[of(Level::Warning)]).contains("1 thing would"));
        assert!(verdict(&[of(Level::Problem), of(Level::Problem), of(Level::Warning)]).contains("2 things marked"));
    }

    #[test]
    fn long_texts_are_folded_between_words() {
        let folded = wrapped(&"word ".repeat(60));
        assert!(folded.lines().count() > 1);
        assert!(folded.lines().all(|line| line.chars().count() <= WIDTH), "{folded}");
        assert_eq!(wrapped(&"x".repeat(200)), "x".repeat(200));
    }
}
