//! `regatta plan`: the expanded matrix, what is skipped and why. Starts nothing.

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::Args;
use regatta_core::fleet::labels_text;
use regatta_core::matrix::{self, CellPlan, Matrix, PlannedGroup, PlannedTrial};
use regatta_core::policy::{Exclusive, Passes};
use regatta_core::scenario::Scenario;
use serde_json::json;

use crate::bundle::{self, ScenarioArgs};
use crate::exit::{BadInput, Exit};
use crate::local;
use crate::paths::Folders;

/// Arguments of `regatta plan`.
#[derive(Debug, Args)]
pub(crate) struct PlanArgs {
    /// The scenario file
    scenario: PathBuf,
    #[command(flatten)]
    options: ScenarioArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Prints the matrix of a scenario on this machine.
pub(crate) async fn run(args: PlanArgs, folders: &Folders) -> anyhow::Result<Exit> {
    let bundle = bundle::read(&args.scenario, &args.options)?;
    let scenario = bundle::check(&bundle)?;
    let devices = local::devices(folders).await?;
    let most = if args.options.allow_large { matrix::MAX_CELLS_LARGE } else { matrix::MAX_CELLS };
    matrix::check_devices(&scenario, &devices).map_err(|errors| BadInput(errors.to_string()))?;
    matrix::check_size(&scenario, &devices, most).map_err(|error| BadInput(error.to_string()))?;
    let matrix = matrix::expand(&scenario, &devices);
    let text = if args.json { as_json(&matrix)? } else { as_text(&matrix, &scenario) };
    crate::output::text(&text);
    Ok(Exit::Done)
}

fn as_text(matrix: &Matrix, scenario: &Scenario) -> String {
    let mut text = String::new();
    for (number, trial) in matrix.trials.iter().enumerate() {
        let artifact = &trial.artifact;
        let (wherever, together) = (place(trial), together(trial));
        let _ = writeln!(text, "trial {}: {} on {wherever}, {artifact}{together}", number + 1, trial.backend);
        for planned in &matrix.cells[trial.cells.clone()] {
            let workload = &planned.cell.workload;
            let (hash, size) = (planned.hash.0.short(), workload.size(workload.prompt.tokens()));
            let _ = writeln!(text, "  {hash}  {:<20} {size}", workload.name);
        }
    }
    let mut skipped = 0;
    for planned in &matrix.cells {
        if let CellPlan::Skip { reason } = &planned.plan {
            skipped += 1;
            let cell = &planned.cell;
            // What keeps one replica from running keeps all of them.
            if cell.replica > 0 {
                continue;
            }
            let replicas = match cell.workload.replicas {
                1 => String::new(),
                replicas => format!(" with {replicas} replicas"),
            };
            let _ = writeln!(
                text,
                "skipped: {} on {}, {}, {}{replicas}: {reason}",
                cell.backend, cell.device, cell.artifact, cell.workload.name
            );
        }
    }
    let runnable = matrix.cells.len() - skipped;
    let _ = writeln!(
        text,
        "\n{} cells: {runnable} to run in {} trials, {} repetitions{}; {skipped} skipped",
        matrix.cells.len(),
        matrix.trials.len(),
        scenario.policy.repetitions,
        passes(scenario.policy.passes)
    );
    if scenario.policy.exclusive == Exclusive::Device {
        text.push_str("trials on other devices of a machine run at the same time (exclusive = \"device\")\n");
    }
    if !scenario.fleet.labels.is_empty() {
        let labels = labels_text(&scenario.fleet.labels);
        let _ = writeln!(text, "on a fleet, only agents with {labels} get these cells; here, labels are not looked at");
    }
    text
}

/// Where a trial may go.
fn place(trial: &PlannedTrial) -> String {
    match trial.pool.as_deref() {
        Some(pool) if pool.len() > 1 => format!("any of {} devices like {}", pool.len(), trial.device),
        _ => trial.device.to_string(),
    }
}

/// What a trial is measured together with.
fn together(trial: &PlannedTrial) -> String {
    let replica = |group: PlannedGroup| {
        let last = group.first + group.replicas as usize;
        format!(
            ", replica {} of {}, together with trials {} to {last}",
            group.replica + 1,
            group.replicas,
            group.first + 1
        )
    };
    trial.group.map(replica).unwrap_or_default()
}

fn as_json(matrix: &Matrix) -> anyhow::Result<String> {
    let cells: Vec<_> = matrix
        .cells
        .iter()
        .map(|planned| {
            let cell = &planned.cell;
            let (trial, skipped) = match &planned.plan {
                CellPlan::Run { trial } => (Some(trial + 1), None),
                CellPlan::Skip { reason } => (None, Some(reason)),
            };
            json!({
                "cell": planned.hash.to_string(),
                "agent": cell.agent,
                "device": cell.device,
                "backend": cell.backend.to_string(),
                "artifact": cell.artifact,
                "workload": *cell.workload,
                "replica": cell.replica,
                "trial": trial,
                "pool": trial.and_then(|number: usize| matrix.trials[number - 1].pool.as_deref()),
                "skipped": skipped,
            })
        })
        .collect();
    Ok(serde_json::to_string_pretty(&json!({ "cells": cells, "trials": matrix.trials.len() }))? + "\n")
}

/// ` in each of 6 to 30 worker processes`, or ` each` where there is one.
fn passes(passes: Passes) -> String {
    match passes {
        passes if passes.is_single() => " each".to_owned(),
        Passes { min, max, .. } if min == max => format!(" in each of {max} worker processes"),
        Passes { min, max, .. } => format!(" in each of {min} to {max} worker processes"),
    }
}
