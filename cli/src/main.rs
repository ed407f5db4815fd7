//! `regatta`: the one program people type.

mod against;
mod agent;
mod agents;
mod backup;
mod bundle;
mod cells;
mod compare;
mod connect;
mod coordinator;
mod dashboard;
mod devices;
mod doctor;
mod exit;
mod fetch;
mod gate;
mod history;
mod import;
mod local;
mod logs;
mod models;
mod output;
mod paths;
mod plan;
mod prune;
mod report;
mod restore;
mod rpc;
mod run;
mod runs;
mod schedules;
mod settings;
mod signals;
mod source;
mod submit;
mod threshold;
mod token;
mod verdict;
mod view;
mod watch;

use std::process::ExitCode;

use clap::{ArgMatches, CommandFactory, FromArgMatches, Parser, Subcommand};
use exit::Exit;
use paths::Folders;

/// Benchmarks of language-model inference: the same work on candle, llama.cpp and ONNX Runtime, measured side by side
#[derive(Debug, Parser)]
#[command(name = "regatta", version, arg_required_else_help = true, after_help = AFTER_HELP,
    help_template = TEMPLATE)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    folders: Folders,
    /// Say more of what is going on (twice: everything)
    #[arg(short, long, action = clap::ArgAction::Count, global = true)]
    verbose: u8,
}

const AFTER_HELP: &str = "\
Examples:
  regatta run scenarios/demo.toml               measure on this machine, then open report.html
  regatta plan scenarios/tinyllama.toml         what would run, and what is skipped and why
  regatta submit scenarios/demo.toml --watch    measure on a fleet, and watch the matrix fill up
  regatta report --format csv > results.csv     one row for each repetition of the last run
  regatta compare 01935f 01936a                 faster, slower, equivalent or undecided, cell by cell

'regatta COMMAND --help' has examples for each command; docs/fleet.md tells how to go from one machine to many.

Exit codes: 0 done, 1 something failed, 2 bad input, 3 something is slower (compare, gate), 4 finished with cells that are not ok,
or stopped early, 5 too few worker processes for a verdict (compare)";

/// The commands by what they are about: clap has no groups for subcommands, so the list is written here, and a test
/// holds it to the commands that there are.
const TEMPLATE: &str = "\
{about}

{usage-heading} {usage}

On this machine:
  run          Run a scenario and report: here, or on a fleet with --coordinator
  plan         Show the expanded matrix, what is skipped and why
  devices      List devices and the workers that can drive them
  doctor       Say what keeps this machine from measuring well, with a fix for each thing
  models       List, fetch, make, convert and verify weights

Results:
  runs         List runs
  show         Show one run: every cell with its state
  report       Make the report of one or several runs: HTML with charts, or csv, json, md
  compare      Say what became faster or slower from one run to another
  history      Show a cell night by night, with breaks and verdicts
  gate         Say whether a night is slower than those before it
  verdict      Answer what was said of a night, or take a night out
  import       Take results of llama-bench, for reports
  backup       Copy the database, also while a coordinator writes to it
  restore      Put a backup in the place of the database
  prune        Remove old runs from the database
  pin          Keep a run, whatever is pruned

Fleet, for people:
  submit       Queue a scenario at a coordinator
  watch        Watch a run's matrix fill up
  cancel       Stop a run; what is measured stays
  retry        Run again the cells of a run that did not end ok
  agents       List the machines of a fleet
  drain        Give an agent no more trials
  resume       Take an agent back into service
  forget       Remove an agent that is gone for good

Fleet, services:
  coordinator  Lease trials to agents, store what they measure, and answer people
  schedules    Check a file of schedules, and show what fires when and what came of it
  agent        Measure on this machine what a coordinator asks for
  token        Make, list and revoke the tokens that let agents and people speak to a coordinator

Other:
  completions  Print a completion script for a shell
  help         Print this message or the help of a command

Options:
{options}

{after-help}";

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a scenario and report: here, or on a fleet with --coordinator
    Run(run::RunArgs),
    /// Show the expanded matrix, what is skipped and why
    Plan(plan::PlanArgs),
    /// List devices and the workers that can drive them
    Devices(devices::DevicesArgs),
    /// Say what keeps this machine from measuring well, with a fix for each thing
    Doctor(doctor::DoctorArgs),
    /// List, fetch, make, convert and verify weights
    #[command(subcommand)]
    Models(models::ModelsCommand),
    /// List runs
    Runs(runs::RunsArgs),
    /// Show one run: every cell with its state
    Show(runs::ShowArgs),
    /// Make the report of one or several runs: HTML with charts, or csv, json, md
    Report(report::ReportArgs),
    /// Say what became faster or slower from one run to another
    Compare(compare::CompareArgs),
    /// Show a cell night by night, with breaks and verdicts
    History(history::HistoryArgs),
    /// Say whether a night is slower than those before it
    Gate(gate::GateArgs),
    /// Answer what was said of a night, or take a night out
    #[command(subcommand)]
    Verdict(verdict::VerdictCommand),
    /// Take results of llama-bench, for reports
    #[command(subcommand)]
    Import(import::ImportCommand),
    /// Copy the database, also while a coordinator writes to it
    Backup(backup::BackupArgs),
    /// Put a backup in the place of the database
    Restore(restore::RestoreArgs),
    /// Remove old runs from the database
    Prune(prune::PruneArgs),
    /// Keep a run, whatever is pruned
    Pin(prune::PinArgs),
    /// Queue a scenario at a coordinator
    Submit(submit::SubmitArgs),
    /// Watch a run's matrix fill up
    Watch(watch::WatchArgs),
    /// Stop a run; what is measured stays
    Cancel(submit::CancelArgs),
    /// Run again the cells of a run that did not end ok
    Retry(submit::RetryArgs),
    /// List the machines of a fleet
    Agents(agents::AgentsArgs),
    /// Give an agent no more trials
    Drain(agents::DrainArgs),
    /// Take an agent back into service
    ///
    /// From draining or from quarantine. To go on with a run that was broken off: regatta run --resume.
    Resume(agents::AgentNameArgs),
    /// Remove an agent that is gone for good
    ///
    /// It must not be connected and hold no trial. What it measured stays.
    Forget(agents::AgentNameArgs),
    /// Lease trials to agents, store what they measure, and answer people
    Coordinator(coordinator::CoordinatorArgs),
    /// Check a file of schedules, and show what fires when and what came of it
    Schedules(schedules::SchedulesArgs),
    /// Measure on this machine what a coordinator asks for
    Agent(agent::AgentArgs),
    /// Make, list and revoke the tokens that let agents and people speak to a coordinator
    #[command(subcommand)]
    Token(token::TokenCommand),
    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

impl Command {
    /// Whether it runs until it is stopped, and sets up a log of its own.
    fn is_service(&self) -> bool {
        matches!(self, Self::Coordinator(_) | Self::Agent(_))
    }
}

fn main() -> ExitCode {
    let matches = Cli::command().get_matches();
    let cli = match Cli::from_arg_matches(&matches) {
        Ok(cli) => cli,
        Err(error) => error.exit(),
    };
    if !cli.command.is_service() {
        logs::start(cli.verbose);
    }
    let result = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(anyhow::Error::from)
        .and_then(|runtime| runtime.block_on(dispatch(cli, &matches)));
    match result {
        Ok(exit) => exit.into(),
        Err(error) => {
            output::note(&format!("error: {error:#}"));
            exit::of_error(&error).into()
        }
    }
}

async fn dispatch(cli: Cli, matches: &ArgMatches) -> anyhow::Result<Exit> {
    let (folders, verbose) = (&cli.folders, cli.verbose);
    let matches = matches.subcommand().map_or(matches, |(_, matches)| matches);
    match cli.command {
        Command::Run(args) => run::run(args, folders).await,
        Command::Plan(args) => plan::run(args, folders).await,
        Command::Report(args) => report::run(args, folders).await,
        Command::Compare(args) => compare::run(args, folders).await,
        Command::History(args) => history::run(args, folders).await,
        Command::Gate(args) => gate::run(args, folders).await,
        Command::Verdict(command) => verdict::run(command, folders).await,
        Command::Import(command) => import::run(command, folders).await,
        Command::Backup(args) => backup::run(args, folders).await,
        Command::Restore(args) => restore::run(args, folders).await,
        Command::Prune(args) => prune::run(args, folders).await,
        Command::Pin(args) => prune::pin(args, folders).await,
        Command::Runs(args) => runs::list(args, folders).await,
        Command::Show(args) => runs::show(args, folders).await,
        Command::Models(command) => models::run(command, folders).await,
        Command::Devices(args) => devices::run(args, folders).await,
        Command::Doctor(args) => doctor::run(args, folders).await,
        Command::Coordinator(args) => coordinator::run(args, matches, folders, verbose).await,
        Command::Schedules(args) => schedules::run(args, folders).await,
        Command::Agent(args) => agent::run(args, matches, folders, verbose).await,
        Command::Token(command) => token::run(command, folders).await,
        Command::Submit(args) => submit::submit(args).await,
        Command::Watch(args) => watch::run(args).await,
        Command::Cancel(args) => submit::cancel(args).await,
        Command::Retry(args) => submit::retry(args).await,
        Command::Agents(args) => agents::list(args).await,
        Command::Drain(args) => agents::drain(args).await,
        Command::Resume(args) => agents::resume(args).await,
        Command::Forget(args) => agents::forget(args).await,
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "regatta", &mut std::io::stdout());
            Ok(Exit::Done)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_variable_is_listed_in_one_place() {
        fn variables(command: &clap::Command, found: &mut std::collections::BTreeSet<String>) {
            found.extend(command.get_arguments().filter_map(|a| a.get_env()).map(|v| v.to_string_lossy().into_owned()));
            command.get_subcommands().for_each(|command| variables(command, found));
        }
        let text = include_str!("../../docs/configuration.md");
        let mut found = std::collections::BTreeSet::from([
            connect::TOKEN.to_owned(),
            coordinator::WEBHOOK_SECRET.to_owned(),
            "NO_COLOR".to_owned(),
            "REGATTA_CUDA_LIB".to_owned(),
            "REGATTA_ONNXRUNTIME".to_owned(),
        ]);
        variables(&Cli::command(), &mut found);
        found.extend(regatta_pull::hub::VARIABLES.map(str::to_owned));
        assert!(found.len() > 20, "{found:?}");
        let listed = text.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`')).map(|(name, _)| name);
        // Metrics stand in a table too.
        let listed = listed.filter(|name| !name.starts_with("regatta_"));
        let listed: std::collections::BTreeSet<String> = listed.map(str::to_owned).collect();
        assert_eq!(listed, found, "docs/configuration.md lists other variables than there are");
    }

    #[test]
    fn every_command_that_docs_fleet_names_takes_json() {
        let text = include_str!("../../docs/fleet.md");
        let (_, table) = text.split_once("| `regatta submit").unwrap();
        let rows = format!("| `regatta submit{}", table.split_once("All take `--json`").unwrap().0);
        let mut command = Cli::command();
        command.build();
        let mut count = 0;
        let names = rows.split("`regatta ").skip(1).map(|row| row.split(['`', ' ']).next().unwrap());
        for name in names {
            let found = command.find_subcommand(name).unwrap();
            let leaves: Vec<_> = found.get_subcommands().filter(|sub| sub.get_name() != "help").collect();
            for leaf in if leaves.is_empty() { vec![found] } else { leaves } {
                assert!(leaf.get_arguments().any(|a| a.get_id() == "json"), "{name} {}", leaf.get_name());
                count += 1;
            }
        }
        assert!(count > 14, "{count} commands");
    }

    #[test]
    fn the_grouped_list_names_every_command_with_its_own_words() {
        let mut command = Cli::command();
        command.build();
        for sub in command.get_subcommands() {
            let about = sub.get_about().map(ToString::to_string).unwrap_or_default();
            let line = format!("  {:<12} {about}\n", sub.get_name());
            assert!(TEMPLATE.contains(&line) || sub.get_name() == "help", "not in the list: {line}");
        }
        let listed = TEMPLATE.lines().filter(|line| line.starts_with("  ") && !line.trim().is_empty()).count();
        assert_eq!(listed, command.get_subcommands().count());
    }

    /// Command lines of the files in deploy/, each as words without the program.
    fn deployed() -> Vec<(&'static str, Vec<String>)> {
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let mut found = Vec::new();
        for (file, text) in [
            ("coordinator.service", include_str!("../../deploy/systemd/regatta-coordinator.service")),
            ("agent.service", include_str!("../../deploy/systemd/regatta-agent.service")),
        ] {
            let start = text.lines().find_map(|line| line.strip_prefix("ExecStart=")).unwrap();
            found.push((file, words(start)[1..].to_vec()));
        }
        let task = include_str!("../../deploy/windows/regatta-agent.xml");
        let (_, arguments) = task.split_once("<Arguments>").unwrap();
        found.push(("Windows task", words(arguments.split_once('<').unwrap().0)));
        let plist = include_str!("../../deploy/launchd/io.regatta.agent.plist");
        let (_, array) = plist.split_once("<array>").unwrap();
        let strings = array.split_once("</array>").unwrap().0.split("<string>").skip(2);
        found.push(("launchd", strings.map(|text| text.split_once('<').unwrap().0.to_owned()).collect()));
        for (file, text) in [
            ("coordinator.yaml", include_str!("../../deploy/kubernetes/coordinator.yaml")),
            ("agent.yaml", include_str!("../../deploy/kubernetes/agent.yaml")),
        ] {
            let after = text.lines().skip_while(|line| line.trim() != "args:").skip(1);
            let items = after.map_while(|line| line.trim().strip_prefix("- "));
            let items = items.map(|item| item.trim_matches('"').replace("$(NODE_NAME)", "node-1"));
            found.push((file, items.collect()));
        }
        found
    }

    #[test]
    fn the_files_in_deploy_use_commands_and_flags_that_exist() {
        for (file, words) in deployed() {
            assert!(words.len() > 4, "{file}: {words:?}");
            let parsed = Cli::try_parse_from(std::iter::once("regatta").chain(words.iter().map(String::as_str)));
            assert!(parsed.is_ok(), "{file}: {}", parsed.unwrap_err());
        }
    }

    #[test]
    fn the_help_reads_well() {
        insta::assert_snapshot!(Cli::command().render_long_help().to_string());
    }
}
