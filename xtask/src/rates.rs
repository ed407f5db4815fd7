//! Rates out of a report's CSV, and the middle of them.

/// The numbers of a column, by its name. For scenarios of which no field has a comma in it.
pub(crate) fn column(csv: &str, name: &str) -> Vec<f64> {
    let mut lines = csv.lines().map(|line| line.split(',').collect::<Vec<_>>());
    let at = lines.next().and_then(|heads| heads.iter().position(|head| *head == name));
    let Some(at) = at else { return Vec::new() };
    lines.filter_map(|fields| fields.get(at)?.parse().ok()).collect()
}

/// The middle of some values, in any order; NaN for none.
pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = values.into_iter().collect();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[n / 2],
        n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read_by_the_name_of_their_column() {
        assert_eq!(column("a,decode_tokens_per_s\nx,10.5\ny,\nz,11\n", "decode_tokens_per_s"), [10.5, 11.0]);
        assert_eq!(column("a,b\nx,10.5\n", "decode_tokens_per_s"), [] as [f64; 0]);
    }

    #[test]
    fn the_middle_of_an_even_number_lies_between_two() {
        assert!((median([3.0, 1.0, 2.0]) - 2.0).abs() < 1e-12);
        assert!((median([4.0, 1.0, 2.0, 3.0]) - 2.5).abs() < 1e-12);
        assert!(median([]).is_nan());
    }
}
