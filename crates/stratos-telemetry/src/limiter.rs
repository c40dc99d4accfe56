//! How much of something is let through over time.

/// A bucket of tokens that fills by itself.
#[derive(Debug)]
pub struct Limiter {
    per_s: u64,
    burst: u64,
    /// Thousandths of tokens.
    tokens: u64,
    at_ms: u64,
}

impl Limiter {
    /// Lets `per_s` a second through, and `burst` at once after a pause.
    pub const fn new(per_s: u64, burst: u64) -> Self {
        Self { per_s, burst, tokens: burst * 1000, at_ms: 0 }
    }

    /// Whether one more may pass at this time.
    pub fn pass(&mut self, now_ms: u64) -> bool {
        // A clock that was set back gives nothing, and takes nothing.
        let passed = now_ms.saturating_sub(self.at_ms);
        self.at_ms = now_ms;
        self.tokens = self.tokens.saturating_add(passed.saturating_mul(self.per_s)).min(self.burst * 1000);
        let passes = self.tokens >= 1000;
        self.tokens -= if passes { 1000 } else { 0 };
        passes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_and_then_the_rate() {
        let mut limiter = Limiter::new(10, 5);
        let passed =
            |limiter: &mut Limiter, from: u64, to: u64| (from..to).filter(|ms| limiter.pass(*ms)).count();
        assert_eq!(passed(&mut limiter, 1_000_000, 1_000_050), 5);
        assert_eq!(passed(&mut limiter, 1_000_050, 1_001_050), 10);
        // Set back by an hour, it goes on.
        assert_eq!(passed(&mut limiter, 1_000, 2_000), 10);
    }
}
