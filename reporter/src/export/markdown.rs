//! Markdown: findings, a table of medians and what was not measured, short enough for a comment.

use std::fmt::Write as _;

use crate::view::{CellRow, GroupRow, ImportView, Report, RunView, Value};

/// Rows of a table at most: comments have a limit, and readers too.
const MAX_ROWS: usize = 60;

pub(super) fn markdown(report: &Report) -> String {
    let mut out = String::new();
    for run in &report.runs {
        run_text(&mut out, run);
    }
    for import in &report.imports {
        import_text(&mut out, import);
    }
    line(
        &mut out,
        &format!(
            "<sub>Regatta {}, method version {}. Medians over worker processes (over repetitions of a single one), ± median absolute deviation.</sub>",
            report.regatta_version, report.method_version
        ),
    );
    out
}

fn line(out: &mut String, text: &str) {
    out.push_str(text);
    out.push('\n');
}

fn run_text(out: &mut String, run: &RunView) {
    let counts: Vec<String> = run.counts.iter().map(|c| format!("{} {}", c.n, c.state)).collect();
    line(out, &format!("## {}\n", escape(&run.scenario)));
    line(out, &format!("{} cells: {}. {}\n", run.total, counts.join(", "), escape(&run.status)));
    for text in &run.setup {
        line(out, &format!("{}\n", escape(text)));
    }
    for banner in &run.banners {
        line(out, &format!("> **{}.** {}\n", escape(&banner.title), escape(&banner.text)));
    }
    for headline in &run.headlines {
        line(out, &format!("- **{}** {}", escape(&headline.lead), escape(&headline.text)));
    }
    for comparison in run.comparisons.iter().filter(|comparison| !comparison.tokens.is_empty()) {
        line(out, &format!("- **{}** {}", escape(comparison.precision), escape(&comparison.tokens)));
    }
    out.push('\n');
    results(out, run);
    replicas(out, run);
    problems(out, run);
}

fn import_text(out: &mut String, import: &ImportView) {
    line(out, &format!("## {}\n", escape(&import.title)));
    line(out, &format!("> **{}.** {}\n", escape(&import.banner.title), escape(&import.banner.text)));
    line(out, "| model | device | backend | test | tokens/s |");
    line(out, "| --- | --- | --- | --- | --: |");
    for row in import.rows.iter().take(MAX_ROWS) {
        let cells = [row.model.clone(), row.place.clone(), row.backend.clone(), row.test.clone(), value(&row.rate)];
        let escaped: Vec<String> = cells.iter().map(|cell| escape(cell)).collect();
        line(out, &format!("| {} |", escaped.join(" | ")));
    }
    if import.rows.len() > MAX_ROWS {
        line(out, &format!("\n… and {} more in the report.", import.rows.len() - MAX_ROWS));
    }
    out.push('\n');
}

fn results(out: &mut String, run: &RunView) {
    if run.rows.is_empty() {
        return line(out, "Nothing has been measured.\n");
    }
    line(out, "| cell | workload | decode tokens/s | prefill tokens/s | TTFT ms | ITL p99 ms | peak RSS MiB | n |");
    line(out, "| --- | --- | --: | --: | --: | --: | --: | --: |");
    for row in run.rows.iter().take(MAX_ROWS) {
        line(out, &result(row));
    }
    if run.rows.len() > MAX_ROWS {
        line(out, &format!("\n… and {} more in the report.", run.rows.len() - MAX_ROWS));
    }
    out.push('\n');
}

/// Groups of replicas, where there are any.
fn replicas(out: &mut String, run: &RunView) {
    if run.groups.is_empty() {
        return;
    }
    line(out, "| cell | workload | replicas | together tokens/s | each tokens/s | efficiency | start skew ms | n |");
    line(out, "| --- | --- | --: | --: | --: | --: | --: | --: |");
    for row in run.groups.iter().take(MAX_ROWS) {
        line(out, &group(row));
    }
    if run.groups.len() > MAX_ROWS {
        line(out, &format!("\n… and {} more in the report.", run.groups.len() - MAX_ROWS));
    }
    out.push('\n');
}

fn group(row: &GroupRow) -> String {
    let cells = [
        format!("{} {}", row.backend, row.precision),
        format!("{} ({})", row.workload, row.size),
        format!("× {}", row.replicas),
        value(&row.aggregate),
        value(&row.each),
        value(&row.efficiency),
        value(&row.skew),
        row.n.to_string(),
    ];
    let escaped: Vec<String> = cells.iter().map(|c| escape(c)).collect();
    format!("| {} |", escaped.join(" | "))
}

fn result(row: &CellRow) -> String {
    let cells = [
        format!("{} {}", row.backend, row.precision),
        format!("{} ({})", row.workload, row.size),
        value(&row.decode),
        value(&row.prefill),
        value(&row.ttft),
        value(&row.itl_p99),
        value(&row.peak_rss),
        row.n.to_string(),
    ];
    let escaped: Vec<String> = cells.iter().map(|c| escape(c)).collect();
    format!("| {} |", escaped.join(" | "))
}

fn value(value: &Value) -> String {
    format!("{} {}", value.text, value.note).trim_end().to_owned()
}

fn problems(out: &mut String, run: &RunView) {
    if run.problems.is_empty() {
        return;
    }
    line(out, &format!("<details><summary>{} cells without a full result</summary>\n", run.problems.len()));
    for problem in run.problems.iter().take(MAX_ROWS) {
        let (cell, reason) = (escape(&problem.cell), escape(&problem.reason));
        let _ = writeln!(out, "- **{}** {cell}: {reason}", problem.state);
    }
    line(out, "\n</details>\n");
}

/// Text that Markdown takes as text, and that calls nobody.
pub(crate) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '@' => out.push_str("&#64;"),
            '|' | '`' | '*' | '_' | '[' | ']' | '\\' | '~' | '#' | '!' => {
                out.push('\\');
                out.push(c);
            }
            _ => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_stay_text() {
        assert_eq!(escape("a|b <img> @all [x](y)"), "a\\|b &lt;img&gt; &#64;all \\[x\\](y)");
    }
}
