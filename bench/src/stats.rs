//! Quantiles of measured times.

use std::time::Duration;

/// Measured times, in ascending order.
#[derive(Debug, Clone)]
pub(crate) struct Sample(Vec<Duration>);

impl Sample {
    /// Takes at least one measured time.
    ///
    /// # Panics
    /// Without any: a subject that was not measured has no row.
    pub(crate) fn new(mut times: Vec<Duration>) -> Self {
        assert!(!times.is_empty(), "a sample holds at least one time");
        times.sort_unstable();
        Self(times)
    }

    /// How many times were measured.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The quantile for `percent` (1 to 100) by nearest rank: the smallest measured time that at least `percent` %
    /// of all are not above. It is always a time that was measured, nothing is interpolated.
    ///
    /// # Panics
    /// For a percentage outside 1 to 100.
    pub(crate) fn quantile(&self, percent: usize) -> Duration {
        assert!((1..=100).contains(&percent), "{percent} % is not from 1 to 100");
        let rank = (self.0.len() * percent).div_ceil(100);
        self.0[rank - 1]
    }

    /// The shortest time.
    pub(crate) fn min(&self) -> Duration {
        self.0[0]
    }
}

/// Seconds, rounded to whole milliseconds.
pub(crate) fn seconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e3).round() / 1e3
}

/// Milliseconds, rounded to whole microseconds.
pub(crate) fn ms(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}

/// Microseconds, rounded to tenths.
pub(crate) fn us(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e7).round() / 1e1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(times: impl IntoIterator<Item = u64>) -> Sample {
        Sample::new(times.into_iter().map(Duration::from_millis).collect())
    }

    #[test]
    fn quantiles_are_measured_times_at_the_nearest_rank() {
        // (times, p50, p95, p100)
        let cases: [(Vec<u64>, u64, u64, u64); 6] = [
            (vec![7], 7, 7, 7),
            (vec![9, 1], 1, 9, 9),
            (vec![3, 1, 2], 2, 3, 3),
            ((1..=20).rev().collect(), 10, 19, 20),
            ((1..=30).collect(), 15, 29, 30),
            ((1..=100).collect(), 50, 95, 100),
        ];
        for (times, p50, p95, p100) in cases {
            let sample = sample(times.clone());
            let got = [50, 95, 100].map(|percent| sample.quantile(percent).as_millis());
            assert_eq!(got, [p50, p95, p100].map(u128::from), "{times:?}");
            assert_eq!(sample.min().as_millis(), u128::from(*times.iter().min().unwrap()));
            assert_eq!(sample.len(), times.len());
        }
    }

    #[test]
    fn times_are_rounded_where_noise_begins() {
        let time = Duration::from_nanos(1_234_567);
        assert_eq!(seconds(time * 1000), 1.235);
        assert_eq!(ms(time), 1.235);
        assert_eq!(us(time), 1234.6);
    }
}
