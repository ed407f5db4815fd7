//! `regatta submit`, `cancel` and `retry`: runs of a coordinator.

use std::path::PathBuf;

use clap::Args;
use regatta_core::scenario::ScenarioBundle;
use regatta_proto::pb;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::bundle::{self, ScenarioArgs};
use crate::connect::{ConnectArgs, RunClient};
use crate::exit::Exit;
use crate::view::RunView;
use crate::watch::{self, Place, Screen};
use crate::{output, rpc, source};

/// When a run's turn comes.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct PriorityArgs {
    /// Runs of a higher priority go first: -100 to 100
    #[arg(long, value_name = "N", default_value_t = 0, allow_negative_numbers = true,
        value_parser = clap::value_parser!(i32).range(-100..=100))]
    pub priority: i32,
}

const SUBMIT_EXAMPLES: &str = "\
Examples:
  regatta submit scenarios/tinyllama.toml --coordinator http://127.0.0.1:7600
  RUN=$(regatta submit nightly.toml --priority -10)      the run's id is all that goes to standard output
  regatta submit nightly.toml --watch                    submit, then watch until it has ended";

/// Arguments of `regatta submit`.
#[derive(Debug, Args)]
#[command(after_help = SUBMIT_EXAMPLES)]
pub(crate) struct SubmitArgs {
    /// The scenario file
    scenario: PathBuf,
    #[command(flatten)]
    options: ScenarioArgs,
    #[command(flatten)]
    priority: PriorityArgs,
    #[command(flatten)]
    connect: ConnectArgs,
    /// Watch it until it has ended
    #[arg(long)]
    watch: bool,
    /// Print a JSON object for each event
    #[arg(long)]
    json: bool,
}

/// Hands a scenario to a coordinator.
pub(crate) async fn submit(args: SubmitArgs) -> anyhow::Result<Exit> {
    let bundle = bundle::read(&args.scenario, &args.options)?;
    bundle::check(&bundle)?;
    let mut client = args.connect.client().await?;
    let run = queue(&mut client, bundle, args.options.allow_large, args.priority).await?;
    let submitted = json!({ "event": "submitted", "run": run });
    follow_up(client, Submitted { run, event: submitted }, args.watch, args.json).await
}

/// Queues a new run, and gives its id.
pub(crate) async fn queue(
    client: &mut RunClient,
    bundle: ScenarioBundle,
    allow_large: bool,
    PriorityArgs { priority }: PriorityArgs,
) -> anyhow::Result<String> {
    let run_id = Uuid::now_v7().to_string();
    let scenario = Some(bundle.into());
    let request = rpc::request(pb::SubmitRunRequest { scenario, allow_large, run_id, priority });
    let response = client.submit_run(request).await.map_err(|status| rpc::refused(&status))?;
    Ok(response.into_inner().run_id)
}

/// A run that has just been submitted.
struct Submitted {
    run: String,
    /// What programs get to know.
    event: Value,
}

async fn follow_up(client: RunClient, submitted: Submitted, watch: bool, json: bool) -> anyhow::Result<Exit> {
    let Submitted { run, event } = submitted;
    match (json, watch) {
        (true, _) => output::line(&event.to_string()),
        (false, true) => output::note(&format!("submitted {run}")),
        (false, false) => {
            output::line(&run);
            output::note(&format!("submitted; watch it with: regatta watch {run}"));
        }
    }
    if watch {
        return watch::remotely(client, &run, Screen::new(json, Place::Stdout)).await.map(watch::Watched::exit);
    }
    Ok(Exit::Done)
}

/// Arguments of `regatta cancel`.
#[derive(Debug, Args)]
pub(crate) struct CancelArgs {
    /// A run id or the beginning of one
    run: String,
    #[command(flatten)]
    connect: ConnectArgs,
    /// Print JSON: the run
    #[arg(long)]
    json: bool,
}

/// Stops a run after the repetitions that are under way.
pub(crate) async fn cancel(args: CancelArgs) -> anyhow::Result<Exit> {
    let mut client = args.connect.client().await?;
    let id = source::get_run(&mut client, &args.run).await?.id;
    let request = rpc::request(pb::CancelRunRequest { run_id: id.clone() });
    client.cancel_run(request).await.map_err(|status| rpc::refused(&status))?;
    let run = RunView::from(source::get_run(&mut client, &id).await?);
    if args.json {
        output::json(&run.json());
    } else {
        output::line(&run.line());
        if !run.has_ended() {
            output::note("agents stop after their current repetition; what is measured stays");
        }
    }
    Ok(Exit::Done)
}

const RETRY_EXAMPLES: &str = "\
Examples:
  regatta retry 01935f               a new run of the cells of that run that did not end ok
  regatta retry 01935f --watch";

/// Arguments of `regatta retry`.
#[derive(Debug, Args)]
#[command(after_help = RETRY_EXAMPLES)]
pub(crate) struct RetryArgs {
    /// A run id or the beginning of one; the run must have ended
    run: String,
    #[command(flatten)]
    connect: ConnectArgs,
    /// Watch the new run until it has ended
    #[arg(long)]
    watch: bool,
    /// Print a JSON object for each event
    #[arg(long)]
    json: bool,
}

/// Submits a new run of the cells that did not end ok.
pub(crate) async fn retry(args: RetryArgs) -> anyhow::Result<Exit> {
    let mut client = args.connect.client().await?;
    let of = source::get_run(&mut client, &args.run).await?.id;
    let request = pb::RetryRunRequest {
        run_id: of.clone(),
        new_run_id: Uuid::now_v7().to_string(),
        ..pb::RetryRunRequest::default()
    };
    let response = client.retry_run(rpc::request(request)).await.map_err(|status| rpc::refused(&status))?;
    let pb::RetryRunResponse { run_id: run, cells, .. } = response.into_inner();
    let event = json!({ "event": "submitted", "run": run, "retry_of": of, "cells": cells });
    follow_up(client, Submitted { run, event }, args.watch, args.json).await
}
