//! Keeps `docs/faults.md` true: every test that it names is there.

use crate::command::root;

/// What the text names as `` `path.rs::function` ``.
pub(crate) fn named(text: &str) -> Vec<(&str, &str)> {
    let quoted = text.split('`').skip(1).step_by(2);
    quoted.filter_map(|name| name.split_once(".rs::")).collect()
}

#[test]
fn every_test_that_the_table_of_faults_names_is_there() {
    let text = std::fs::read_to_string(root().join("docs/faults.md")).unwrap_or_default();
    let named = named(&text);
    assert!(named.len() > 40, "docs/faults.md names {} tests", named.len());
    are_there(&named);
}

/// Every test of the list is in its file.
pub(crate) fn are_there(named: &[(&str, &str)]) {
    for (path, function) in named {
        let source = std::fs::read_to_string(root().join(format!("{path}.rs"))).unwrap_or_default();
        assert!(source.contains(&format!("fn {function}(")), "there is no {function} in {path}.rs");
    }
}
