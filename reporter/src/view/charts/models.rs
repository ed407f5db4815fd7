//! Models of different sizes on the same device: how speed falls as they grow.

use regatta_core::artifact::Precision;
use regatta_core::backend::BackendKind;

use super::context::{Whiskers, lengths};
use super::{Caption, Line, LineChart, LinePanel, Point, Scale};
use crate::stats::sorted;
use crate::text;
use crate::view::subject::{Measured, Subject};

/// Panels at most: models tell their sizes apart in the first few as well as in all.
const MAX_PANELS: usize = 6;

/// Weights in a billion.
const BILLION: f64 = 1e9;

/// A chart for each device on which several models were timed in the same way.
pub(super) fn sizes(subjects: &[Subject<'_>], slug: &str) -> Vec<LineChart> {
    let mut places: Vec<Vec<&Subject<'_>>> = Vec::new();
    for subject in subjects {
        let key = |s: &Subject<'_>| (s.cell().agent.clone(), s.cell().device, s.cell().artifact.weights, s.is_kernel());
        match places.iter_mut().find(|place| key(place[0]) == key(subject)) {
            Some(place) => place.push(subject),
            None => places.push(vec![subject]),
        }
    }
    let several = places.iter().filter(|place| place.len() > 1).count() > 1;
    let chart = |(i, place): (usize, &Vec<&Subject<'_>>)| {
        let number = if several { format!("-{}", i + 1) } else { String::new() };
        let prefix = if slug.is_empty() { String::new() } else { format!("{slug}-") };
        size(place, format!("{prefix}model-size{number}"))
    };
    places.iter().enumerate().filter_map(chart).collect()
}

fn size(place: &[&Subject<'_>], slug: String) -> Option<LineChart> {
    // One subject is one model, of one size.
    if place.len() < 2 {
        return None;
    }
    let cells = || place.iter().flat_map(|s| &s.cells).filter(|m| m.is_ok && m.stats.decode_rate.is_some());
    let mut backends: Vec<BackendKind> = BackendKind::ALL.to_vec();
    backends.retain(|b| cells().any(|m| m.backend() == *b));
    let whiskers = Whiskers::of(cells().filter_map(|m| m.stats.decode_rate));
    let batch = place[0].workloads().iter().map(|w| w.batch).min()?;
    let mut panels = Vec::new();
    for workload in place[0].workloads().into_iter().filter(|w| w.batch == batch) {
        for precision in Precision::ALL {
            let of_panel = |m: &&Measured<'_>| m.precision() == precision && m.workload().name == workload.name;
            let found: Vec<&Measured<'_>> = cells().filter(of_panel).collect();
            let title = format!("{}: {} · {precision}", workload.name, workload.size(workload.prompt.tokens()));
            panels.extend(panel(title, &backends, &found, whiskers));
        }
    }
    let left_out = panels.len().saturating_sub(MAX_PANELS);
    panels.truncate(MAX_PANELS);
    lengths(&panels)?;
    let cell = place[0].cell();
    let synthetic = if place[0].is_synthetic() { "synthetic weights" } else { "" };
    let notes = [
        format!("{} of {}", cell.device, cell.agent),
        synthetic.to_owned(),
        whiskers.note(),
        "both axes by factors".to_owned(),
        if left_out > 0 { format!("{left_out} more in the table") } else { String::new() },
    ];
    Some(LineChart {
        caption: Caption {
            slug,
            title: "How much slower larger models are, in tokens/s".to_owned(),
            subtitle: super::sentence(notes),
            value_axis: "Decode rate, tokens/s".to_owned(),
            series: super::series(&backends),
        },
        length_axis: format!("billions of weights: {}", named(&cells().collect::<Vec<_>>())),
        length_scale: Scale::Log2,
        value_scale: Scale::Log10,
        shared: false,
        panels,
    })
}

/// Billions of weights.
fn size_of(measured: &Measured<'_>) -> Option<f64> {
    Some(measured.result.ceiling.parameters()? as f64 / BILLION)
}

/// `tinyllama-1.1b 1.10, mistral-7b 7.25`.
fn named(cells: &[&Measured<'_>]) -> String {
    let mut models: Vec<(f64, &str)> =
        cells.iter().filter_map(|m| Some((size_of(m)?, m.result.cell.artifact.model.as_str()))).collect();
    models.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(b.1)));
    models.dedup();
    models.iter().map(|(size, model)| format!("{model} {}", text::number(*size))).collect::<Vec<_>>().join(", ")
}

/// A line for each backend that has several models; `None` without any.
fn panel(title: String, backends: &[BackendKind], cells: &[&Measured<'_>], whiskers: Whiskers) -> Option<LinePanel> {
    let mut panel = LinePanel::titled(title);
    for (series, backend) in backends.iter().enumerate() {
        let of_backend = cells.iter().filter(|m| m.backend() == *backend);
        let mut points: Vec<Point> =
            of_backend.filter_map(|m| Some(whiskers.point(size_of(m)?, &m.stats.decode_rate?))).collect();
        points.sort_by(|a, b| a.length.total_cmp(&b.length));
        let sizes = sorted(points.iter().map(|point| point.length));
        if sizes.first() != sizes.last() {
            panel.lines.push(Line { series, pieces: vec![points] });
        }
    }
    (!panel.lines.is_empty()).then_some(panel)
}
