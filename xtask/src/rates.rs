//! Rates out of a report's CSV, the middle of them, and how sure it is.

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

/// Two of the sorted values that enclose the true median with at least 95 % confidence, and that confidence: from rank r to
/// rank n + 1 - r misses it with probability 2 · P(Binomial(n, 1/2) < r). The whole range where there are few.
pub(crate) fn median_interval(sorted: &[f64]) -> (f64, f64, f64) {
    let n = sorted.len();
    let (mut term, mut below) = (0.5f64.powi(i32::try_from(n).unwrap_or(i32::MAX)), 0.0);
    let mut best = (f64::NAN, f64::NAN, 0.0);
    for cut in 0..n.div_ceil(2) {
        below += term;
        let confidence = 1.0 - 2.0 * below;
        if cut > 0 && confidence < 0.95 {
            break;
        }
        best = (sorted[cut], sorted[n - 1 - cut], confidence);
        term *= (n - cut) as f64 / (cut + 1) as f64;
    }
    best
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

    #[test]
    fn the_interval_is_that_of_the_order_statistics() {
        let values: Vec<f64> = (1..=20u8).map(f64::from).collect();
        let (low, high, confidence) = median_interval(&values);
        assert_eq!((low, high), (6.0, 15.0));
        assert!((confidence - 0.9586).abs() < 1e-4, "{confidence}");
        let (low, high, confidence) = median_interval(&values[..6]);
        assert_eq!((low, high), (1.0, 6.0));
        assert!((confidence - 0.96875).abs() < 1e-9);
    }
}
