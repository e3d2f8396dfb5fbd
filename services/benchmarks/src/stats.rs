//! Medians and percentiles.

/// The value below which the share `at` of the values lies; 0 of none.
pub fn quantile(values: &[f64], at: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "an index into a list that fits into memory"
    )]
    let index = (at * sorted.len().saturating_sub(1) as f64).round() as usize;
    sorted.get(index).copied().unwrap_or_default()
}

/// The middle value; 0 of none.
pub fn median(values: &[f64]) -> f64 {
    quantile(values, 0.5)
}

/// A count as a number to divide by.
#[expect(
    clippy::cast_precision_loss,
    reason = "no benchmark counts beyond 2^53"
)]
pub fn number(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_and_the_quantiles_are_values_that_were_seen() {
        let values = [5.0, 1.0, 9.0];
        assert!((median(&values) - 5.0).abs() < f64::EPSILON);
        assert!((quantile(&values, 0.99) - 9.0).abs() < f64::EPSILON);
        assert!(median(&[]).abs() < f64::EPSILON);
    }
}
