//! Keeps `docs/bad-input.md` true: every test that it names is there.

use crate::command::root;
use crate::faults::{are_there, named};

#[test]
fn every_test_that_the_table_of_bad_input_names_is_there() {
    let text = std::fs::read_to_string(root().join("docs/bad-input.md")).unwrap_or_default();
    let named = named(&text);
    assert!(named.len() >= 12, "docs/bad-input.md names {} tests", named.len());
    are_there(&named);
}
