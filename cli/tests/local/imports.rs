//! Results of other tools, from a file into a report, and results of ours out to them.

use crate::harness::Home;

const ROWS: &str = "{\"build_commit\":\"0104b151\",\"cpu_info\":\"a processor\",\"backends\":\"CPU\",\"model_type\":\"llama 1B\",\
    \"n_prompt\":512,\"n_gen\":0,\"avg_ts\":256.0,\"stddev_ts\":1.0,\"of_tomorrow\":1}\n\
    {\"n_prompt\":0,\"n_gen\":128,\"n_depth\":1024,\"avg_ts\":9.5}\n";

#[test]
fn rows_of_llama_bench_are_imported_once_and_reported_as_such() {
    let home = Home::new();
    let file = home.file("bench.jsonl", ROWS);
    let import = ["import", "llama-bench", file.to_str().unwrap()];
    let output = home.regatta(&import);
    let notes = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{notes}");
    assert!(notes.contains("of_tomorrow") && notes.contains("n_threads"), "{notes}");
    let said = String::from_utf8(output.stdout).unwrap();
    let id = said.split_whitespace().next().unwrap();
    assert!(said.contains("2 rows, imported"), "{said}");

    let again: serde_json::Value =
        serde_json::from_slice(&home.regatta(&[import.as_slice(), &["--json"]].concat()).stdout).unwrap();
    assert_eq!((again["import"].as_str(), again["new"].as_bool()), (Some(id), Some(false)));
    let listed = String::from_utf8(home.regatta(&["import", "list"]).stdout).unwrap();
    assert!(listed.contains(id) && listed.contains("2 rows of bench.jsonl") && listed.lines().count() == 1, "{listed}");

    let output = home.regatta(&["report", &id[..20], "--format", "md"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("2 rows that llama-bench measured and Regatta did not"), "{text}");
    assert!(text.contains("| llama 1B | a processor | CPU | pp512 | 256"), "{text}");
    let output = home.regatta(&["report", id, "--out", "here"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(std::fs::read_to_string(home.path("here/report.html")).unwrap().contains("tg128 @ d1024"));
}

#[test]
fn a_file_that_says_nothing_is_refused_with_line_and_field() {
    let home = Home::new();
    for (name, content, parts) in [
        ("a.jsonl", "{\"n_prompt\":512,\"n_gen\":0}", vec!["a.jsonl:1", "avg_ts"]),
        ("b.jsonl", "{\"schema\":7,\"method_version\":3}", vec!["b.jsonl:1", "report of Regatta", "schema 7"]),
        ("c.sql", "CREATE TABLE IF NOT EXISTS llama_bench (", vec!["c.sql", "-o jsonl"]),
    ] {
        let file = home.file(name, content);
        let output = home.regatta(&["import", "llama-bench", file.to_str().unwrap()]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(parts.iter().all(|part| said.contains(part)), "{said}");
    }
    let output = home.regatta(&["import", "llama-bench", "nowhere.jsonl"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(!home.path("regatta.sqlite").exists(), "a database was made for nothing");
}
