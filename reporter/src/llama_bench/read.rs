//! Reading llama-bench's files: json, jsonl and csv of any version. What is missing and what is unknown is told, not
//! refused, as long as a row says what was measured and how fast it was.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::Row;
use crate::text;

/// The fields that some version of llama-bench has written and that are known here.
const KNOWN: [&str; 53] = [
    "build_commit",
    "build_number",
    "cpu_info",
    "gpu_info",
    "backends",
    "model_filename",
    "model_type",
    "model_size",
    "model_n_params",
    "n_batch",
    "n_ubatch",
    "n_threads",
    "cpu_mask",
    "cpu_strict",
    "poll",
    "type_k",
    "type_v",
    "n_gpu_layers",
    "n_cpu_moe",
    "split_mode",
    "main_gpu",
    "no_kv_offload",
    "flash_attn",
    "devices",
    "tensor_split",
    "tensor_buft_overrides",
    "use_mmap",
    "use_direct_io",
    "load_mode",
    "embeddings",
    "no_op_offload",
    "no_host",
    "fit_target",
    "fit_min_ctx",
    "n_prompt",
    "n_gen",
    "n_depth",
    "test_time",
    "avg_ns",
    "stddev_ns",
    "avg_ts",
    "stddev_ts",
    "samples_ns",
    "samples_ts",
    // Of versions that are gone.
    "cuda",
    "vulkan",
    "kompute",
    "metal",
    "sycl",
    "rpc",
    "gpu_blas",
    "blas",
    "mul_mat_q",
];

/// What a report shows of a row, beside what it can't do without.
const WANTED: [&str; 8] =
    ["build_commit", "cpu_info", "backends", "model_type", "model_n_params", "n_threads", "stddev_ts", "test_time"];

/// Rows of a file at most.
const MAX_ROWS: usize = 100_000;

/// What a file held.
#[derive(Debug, Clone, PartialEq)]
pub struct Imported {
    /// Its rows, in its order.
    pub rows: Vec<Row>,
    /// Fields that are not known here: kept, not shown.
    pub unknown: BTreeSet<String>,
    /// Fields that a report would show and that some rows lack.
    pub missing: BTreeSet<&'static str>,
}

/// Why a file can't be imported: what, where, and how to mend it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {reason}")]
pub struct ImportError {
    place: String,
    reason: String,
}

/// Reads a file of llama-bench; `file` is its name, for messages.
pub fn read(file: &str, content: &str) -> Result<Imported, ImportError> {
    let whole = |reason: String| ImportError { place: file.to_owned(), reason };
    let content = content.trim_start_matches('\u{feff}');
    let rows = match content.trim_start().chars().next() {
        None => return Err(whole("is empty".to_owned())),
        Some('[') => json(content).map_err(whole)?,
        Some('{') => jsonl(file, content)?,
        Some('|') => return Err(whole(other("markdown"))),
        Some(_) if content.trim_start().to_ascii_uppercase().starts_with("CREATE TABLE") => {
            return Err(whole(other("SQL")));
        }
        Some(_) => csv(file, content)?,
    };
    if rows.len() > MAX_ROWS {
        return Err(whole(format!("has {} rows, at most {MAX_ROWS} are taken", rows.len())));
    }
    if rows.is_empty() {
        return Err(whole("has no rows".to_owned()));
    }
    let mut imported = Imported { rows: Vec::new(), unknown: BTreeSet::new(), missing: BTreeSet::new() };
    for (line, row) in rows {
        check(&row).map_err(|reason| ImportError { place: format!("{file}:{line}"), reason })?;
        let unknown = row.0.keys().filter(|name| !KNOWN.contains(&name.as_str()));
        imported.unknown.extend(unknown.map(|name| text::label(name)));
        imported.missing.extend(WANTED.into_iter().filter(|name| row.text(name).is_empty()));
        imported.rows.push(row);
    }
    Ok(imported)
}

fn other(what: &str) -> String {
    format!("is {what}, which has not all fields (fix: llama-bench -o jsonl)")
}

/// A JSON list; rows count as lines.
fn json(content: &str) -> Result<Vec<(usize, Row)>, String> {
    let values: Vec<Value> = serde_json::from_str(content).map_err(|error| format!("is not JSON: {error}"))?;
    let row = |(at, value)| match value {
        Value::Object(row) => Ok((at + 1, Row(row))),
        _ => Err(format!("entry {} is no object with llama-bench's fields", at + 1)),
    };
    values.into_iter().enumerate().map(row).collect()
}

fn jsonl(file: &str, content: &str) -> Result<Vec<(usize, Row)>, ImportError> {
    // A single object over several lines, as another program's export has it.
    if let Ok(Value::Object(row)) = serde_json::from_str(content) {
        return Ok(vec![(1, Row(row))]);
    }
    let lines = content.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let row = |(at, line): (usize, &str)| {
        let row: Result<Map<String, Value>, _> = serde_json::from_str(line);
        let error =
            |error| ImportError { place: format!("{file}:{}", at + 1), reason: format!("is not JSON: {error}") };
        Ok((at + 1, Row(row.map_err(error)?)))
    };
    lines.map(row).collect()
}

fn csv(file: &str, content: &str) -> Result<Vec<(usize, Row)>, ImportError> {
    let failed = |line: usize, error: &csv::Error| ImportError {
        place: format!("{file}:{line}"),
        reason: format!("is neither JSON nor csv: {error} (fix: llama-bench -o jsonl)"),
    };
    let mut reader = csv::Reader::from_reader(content.as_bytes());
    let names = reader.headers().map_err(|error| failed(1, &error))?.clone();
    let mut rows = Vec::new();
    for (at, record) in reader.records().enumerate() {
        let record = record.map_err(|error| failed(at + 2, &error))?;
        let field = |(name, value): (&str, &str)| (name.trim().to_owned(), Value::String(value.to_owned()));
        rows.push((at + 2, Row(names.iter().zip(&record).map(field).collect())));
    }
    Ok(rows)
}

/// What a row can't do without: what was measured, and how fast it was.
fn check(row: &Row) -> Result<(), String> {
    if let (Some(schema), true) = (row.number("schema"), row.0.contains_key("method_version")) {
        return Err(format!(
            "is a report of Regatta (schema {schema}), not rows of llama-bench (fix: copy the database that it was made \
             from, or take 'regatta report --format llama-bench')"
        ));
    }
    for name in ["n_prompt", "n_gen", "avg_ts"] {
        if !row.0.contains_key(name) {
            let newer = row.number("build_number").map_or_else(String::new, |build| {
                format!("; llama.cpp build {build} may name it otherwise: then a newer Regatta is needed")
            });
            return Err(format!("field '{name}' is missing: without it a row says nothing{newer}"));
        }
        if row.number(name).is_none_or(|number| number < 0.0) {
            let found = text::label(&row.text(name));
            return Err(format!("field '{name}' is '{found}', which is no number of 0 or more"));
        }
    }
    if row.count("n_prompt") + row.count("n_gen") == 0 {
        return Err("n_prompt and n_gen are both 0: nothing was measured".to_owned());
    }
    if row.number("avg_ts") == Some(0.0) {
        return Err("avg_ts is 0: tokens per second of something that was measured are more".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;

    use super::*;

    const ROW: &str = r#"{"build_commit":"0104b151","build_number":6000,"cpu_info":"AMD","gpu_info":"","backends":"CPU",
        "model_filename":"m.gguf","model_type":"llama 1B Q4_K","model_size":667078656,"model_n_params":1100048384,
        "n_threads":16,"n_prompt":512,"n_gen":0,"n_depth":0,"test_time":"2026-03-02T21:40:07Z","avg_ns":2000000000,
        "stddev_ns":1000,"avg_ts":256.0,"stddev_ts":0.1,"samples_ns":[2000000000],"samples_ts":[256.0]}"#;

    fn row() -> String {
        ROW.split('\n').map(str::trim).collect()
    }

    fn said(content: &str) -> String {
        read("x.jsonl", content).map_or_else(|error| error.to_string(), |_| "taken".to_owned())
    }

    #[test]
    fn lists_lines_and_csv_say_the_same() {
        let lines = read("x", &format!("{}\n\n{}\n", row(), row().replace("512", "1024"))).unwrap();
        assert_eq!(lines.rows.iter().map(Row::test).collect::<Vec<_>>(), ["pp512", "pp1024"]);
        assert!(lines.unknown.is_empty() && lines.missing.is_empty(), "{lines:?}");
        assert_eq!(lines.rows[0].samples(), [256.0]);
        let list = read("x", &format!("[\n{},\n{}]", ROW, row().replace("512", "1024"))).unwrap();
        assert_eq!(list, lines);
        let csv = "\"n_prompt\",\"n_gen\",\"n_depth\",\"avg_ts\",\"model_type\"\n\"0\",\"128\",\"4096\",\"9.5\",\"llama, 1B\"\n";
        let csv = read("x", csv).unwrap();
        assert_eq!((csv.rows[0].test(), csv.rows[0].number("avg_ts")), ("tg128 @ d4096".to_owned(), Some(9.5)));
        assert_eq!(csv.rows[0].text("model_type"), "llama, 1B");
        assert_eq!(read("x", ROW).unwrap().rows, lines.rows[..1]);
    }

    #[test]
    fn fields_of_other_versions_are_kept_and_named() {
        let newer = row().replace("\"n_threads\":16", "\"threads_of_tomorrow\":16,\"load_mode\":\"mmap\"");
        let imported = read("x", &newer).unwrap();
        assert_eq!(imported.unknown.iter().collect::<Vec<_>>(), ["threads_of_tomorrow"]);
        assert_eq!(imported.missing.iter().collect::<Vec<_>>(), [&"n_threads"]);
        assert_eq!(imported.rows[0].count("threads_of_tomorrow"), 16);
    }

    #[test]
    fn what_says_nothing_is_refused_with_the_place() {
        let contents = [
            String::new(),
            "[]".to_owned(),
            "[3]".to_owned(),
            "{\"n_prompt\":1".to_owned(),
            "| model | size |".to_owned(),
            "CREATE TABLE IF NOT EXISTS llama_bench (".to_owned(),
            format!("{}\n{}", row(), row().replace("n_gen", "gen")),
            row().replace("\"n_prompt\":512", "\"n_prompt\":-1"),
            row().replace("\"avg_ts\":256.0", "\"avg_ts\":\"fast\""),
            row().replace("\"avg_ts\":256.0", "\"avg_ts\":0"),
            row().replace("\"n_prompt\":512", "\"n_prompt\":0"),
            "{\"schema\": 2, \"method_version\": 1}".to_owned(),
            "model,size\n\"x\"".to_owned(),
            "model,size\n\"x\",1".to_owned(),
        ];
        let said: Vec<String> = contents.iter().map(|content| said(content)).collect();
        assert!(!said.contains(&"taken".to_owned()));
        assert_snapshot!(said.join("\n"));
    }
}
