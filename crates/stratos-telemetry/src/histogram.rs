//! How values are distributed, in little memory: the layout of HDR histograms, with no room taken by empty buckets.
//!
//! The `hdrhistogram` crate keeps an array over the whole range, 13 KiB for two digits: of functions times minutes, 8 MiB
//! would hold ten functions for an hour. A minute's values fill some twenty buckets. The crate is what the tests compare
//! with.

use serde::{Deserialize, Serialize};

/// Buckets of each power of two, as a power of two: a value is known to 1/32 of it.
const PRECISION: u32 = 5;
/// Values are cut here: 19 hours in microseconds, 64 GiB in bytes.
const LARGEST: u64 = (1 << 36) - 1;

/// Counts of values by bucket.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Histogram {
    /// Bucket and count, by bucket.
    buckets: Vec<(u16, u32)>,
    max: u64,
}

fn bucket(value: u64) -> u16 {
    let magnitude = 63 - value.max(1).leading_zeros();
    let shift = magnitude.saturating_sub(PRECISION);
    ((u64::from(shift) << PRECISION) + (value >> shift)) as u16
}

/// The largest value of a bucket.
fn upper(bucket: u16) -> u64 {
    let bucket = u64::from(bucket);
    let shift = (bucket >> PRECISION).saturating_sub(1);
    let sub = bucket - (shift << PRECISION);
    ((sub + 1) << shift) - 1
}

impl Histogram {
    /// Counts a value.
    pub fn add(&mut self, value: u64) {
        let value = value.min(LARGEST);
        self.max = self.max.max(value);
        self.count(bucket(value), 1);
    }

    /// Counts all that the other has counted.
    pub fn merge(&mut self, other: &Self) {
        self.max = self.max.max(other.max);
        for (bucket, count) in &other.buckets {
            self.count(*bucket, *count);
        }
    }

    fn count(&mut self, bucket: u16, more: u32) {
        match self.buckets.binary_search_by_key(&bucket, |(bucket, _)| *bucket) {
            Ok(at) => self.buckets[at].1 = self.buckets[at].1.saturating_add(more),
            Err(at) => {
                // By hand: doubling would leave half of a small one empty.
                if self.buckets.len() == self.buckets.capacity() {
                    self.buckets.reserve_exact(4 + self.buckets.len() / 4);
                }
                self.buckets.insert(at, (bucket, more));
            }
        }
    }

    /// How many values were counted.
    pub fn len(&self) -> u64 {
        self.buckets.iter().map(|(_, count)| u64::from(*count)).sum()
    }

    /// Whether none was.
    pub fn is_empty(&self) -> bool {
        self.buckets.is_empty()
    }

    /// The value that `share` of all are not above, at most 1/32 too high. 0 when nothing was counted.
    pub fn quantile(&self, share: f64) -> u64 {
        let rank = ((self.len() as f64 * share).ceil() as u64).max(1);
        let mut seen = 0;
        for (bucket, count) in &self.buckets {
            seen += u64::from(*count);
            if seen >= rank {
                return upper(*bucket).min(self.max);
            }
        }
        self.max
    }

    /// The largest value.
    pub fn max(&self) -> u64 {
        self.max
    }

    /// Memory on the heap, bytes.
    pub fn heap_bytes(&self) -> usize {
        self.buckets.capacity() * size_of::<(u16, u32)>()
    }

    /// Gives back room that is not used.
    pub fn shrink(&mut self) {
        self.buckets.shrink_to_fit();
    }

    /// Whether it can be one of this version's: what comes from a file may be anything.
    pub fn is_sound(&self) -> bool {
        let sorted = self.buckets.windows(2).all(|two| two[0].0 < two[1].0);
        sorted && self.max <= LARGEST && self.buckets.iter().all(|(b, _)| *b <= bucket(LARGEST))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_follow_each_other_without_a_gap() {
        let mut last = 0;
        for value in (0..5000).chain((13..36).flat_map(|e| [(1 << e) - 1, 1 << e, (1 << e) + 1])) {
            let (at, top) = (bucket(value), upper(bucket(value)));
            assert!(at == last || at == last + 1 || value > 5000, "{value}");
            assert!(value <= top && top - value <= value / 32, "{value} {top}");
            last = at;
        }
        assert_eq!(bucket(LARGEST), 1023);
        let mut histogram = Histogram::default();
        histogram.add(u64::MAX);
        assert_eq!((histogram.max(), histogram.quantile(0.5)), (LARGEST, LARGEST));
        assert!(histogram.is_sound());
        assert!(!Histogram { buckets: vec![(5, 1), (5, 1)], max: 5 }.is_sound());
        assert!(!Histogram { buckets: vec![(1024, 1)], max: 5 }.is_sound());
    }

    /// Against the histograms of the library.
    #[test]
    fn percentiles_are_those_of_hdrhistogram() {
        let mut state = 1_u64;
        let mut random = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            state >> 33
        };
        for scale in [50, 3_000, 900_000, 600_000_000] {
            let mut own = Histogram::default();
            let mut parts = [Histogram::default(), Histogram::default()];
            let mut known = hdrhistogram::Histogram::<u64>::new_with_bounds(1, 1 << 37, 3).unwrap();
            for i in 0..20_000 {
                // A long tail, as latencies have.
                let value = random() % scale + if i % 50 == 0 { random() % (scale * 20) } else { 0 };
                own.add(value);
                parts[i % 2].add(value);
                known.record(value).unwrap();
            }
            let [mut merged, second] = parts;
            merged.merge(&second);
            assert_eq!(merged.buckets, own.buckets);
            assert_eq!((own.len(), own.max()), (20_000, merged.max()));
            for share in [0.5, 0.95, 0.99, 1.0] {
                let (got, want) = (own.quantile(share) as f64, known.value_at_quantile(share) as f64);
                assert!((got - want).abs() <= want * 0.033 + 1.0, "{scale} {share}: {got} {want}");
            }
        }
    }
}
