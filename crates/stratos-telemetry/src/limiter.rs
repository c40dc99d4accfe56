//! How much of something is let through over time.

use std::collections::HashMap;

/// Parts that a token is counted in.
const TOKEN: u64 = 1_000_000;

/// A bucket of tokens that fills by itself.
#[derive(Debug)]
pub struct Limiter {
    /// Millionths of tokens for each millisecond.
    per_ms: u64,
    /// Millionths of tokens.
    burst: u64,
    tokens: u64,
    at_ms: u64,
}

impl Limiter {
    /// Lets `per_s` a second through, and `burst` at once after a pause.
    pub const fn new(per_s: u64, burst: u64) -> Self {
        Self { per_ms: per_s * (TOKEN / 1000), burst: burst * TOKEN, tokens: burst * TOKEN, at_ms: 0 }
    }

    /// One that lets only one of so many of this one's through, and at least one at once.
    fn share(&self, of: u64) -> Self {
        let burst = (self.burst / of).max(TOKEN);
        Self { per_ms: self.per_ms / of, burst, tokens: burst, at_ms: 0 }
    }

    /// Whether one more may pass at this time.
    pub fn pass(&mut self, now_ms: u64) -> bool {
        let passes = self.has_one(now_ms);
        self.tokens -= if passes { TOKEN } else { 0 };
        passes
    }

    fn has_one(&mut self, now_ms: u64) -> bool {
        // A clock that was set back gives nothing, and takes nothing.
        let passed = now_ms.saturating_sub(self.at_ms);
        self.at_ms = now_ms;
        self.tokens = self.tokens.saturating_add(passed.saturating_mul(self.per_ms)).min(self.burst);
        self.tokens >= TOKEN
    }

    fn is_full(&mut self, now_ms: u64) -> bool {
        self.has_one(now_ms) && self.tokens == self.burst
    }
}

/// Of what all may have, the part that one function may have at most.
pub const FUNCTION_SHARE: u64 = 4;
/// And the part of what clients are to blame for: 1 of so many at once, and of the rate.
const CLIENTS_BURST_SHARE: u64 = 20;
const CLIENTS_RATE_SHARE: u64 = 200;

/// A limiter that functions share, so that none of them, and nobody who sends wrong requests, can take all of it.
#[derive(Debug)]
pub struct SharedLimiter {
    all: Limiter,
    /// For what clients are to blame for, of all functions.
    clients: Limiter,
    functions: HashMap<String, Limiter>,
    most_functions: usize,
    /// For functions that find no place.
    others: Limiter,
    looked_ms: u64,
}

/// How often functions that have taken nothing for a while are looked for.
const LOOK_MS: u64 = 1000;

impl SharedLimiter {
    /// Lets `per_s` a second through, and `burst` at once after a pause; so many functions have a share of their own.
    pub fn new(per_s: u64, burst: u64, most_functions: usize) -> Self {
        let all = Limiter::new(per_s, burst);
        let mut clients = all.share(CLIENTS_BURST_SHARE);
        clients.per_ms = all.per_ms / CLIENTS_RATE_SHARE;
        let others = all.share(FUNCTION_SHARE);
        Self { all, clients, functions: HashMap::new(), most_functions, others, looked_ms: 0 }
    }

    /// Whether one more of this function may pass at this time; `client`: it is the client who is to blame.
    pub fn pass(&mut self, function: &str, client: bool, now_ms: u64) -> bool {
        if client && !self.clients.has_one(now_ms) || !self.all.has_one(now_ms) {
            return false;
        }
        let passes = self.of(function, now_ms).pass(now_ms);
        if passes {
            self.all.tokens -= TOKEN;
            self.clients.tokens -= if client { TOKEN } else { 0 };
        }
        passes
    }

    fn of(&mut self, function: &str, now_ms: u64) -> &mut Limiter {
        if !self.functions.contains_key(function) {
            if self.functions.len() >= self.most_functions && self.looked_ms.abs_diff(now_ms) >= LOOK_MS {
                self.looked_ms = now_ms;
                self.functions.retain(|_, limiter| !limiter.is_full(now_ms));
            }
            if self.functions.len() >= self.most_functions {
                return &mut self.others;
            }
        }
        self.functions.entry(function.to_owned()).or_insert_with(|| self.all.share(FUNCTION_SHARE))
    }

    /// Memory that it takes, bytes; estimated.
    pub fn bytes(&self) -> usize {
        self.functions.capacity() * (size_of::<(String, Limiter)>() + 1) + self.functions.len() * 32
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

    #[test]
    fn nobody_takes_more_than_a_share() {
        let now = 1_000_000;
        let mut limiter = SharedLimiter::new(20, 1000, 3);
        let passed = |limiter: &mut SharedLimiter, function: &str, client, now| {
            (0..2000).filter(|_| limiter.pass(function, client, now)).count()
        };
        // Whoever sends wrong requests, to however many functions.
        assert_eq!(passed(&mut limiter, "a", true, now), 50);
        assert_eq!(passed(&mut limiter, "b", true, now), 0);
        assert_eq!(passed(&mut limiter, "b", true, now + 60_000), 6);
        let now = now + 600_000;
        assert_eq!(passed(&mut limiter, "a", false, now), 250);
        assert_eq!(passed(&mut limiter, "a", false, now + 1000), 5);
        assert_eq!(passed(&mut limiter, "b", false, now + 1000), 250);
        assert_eq!(passed(&mut limiter, "c", false, now + 1000), 250);
        // Those beyond the limit have one share together, until a function has taken nothing for a while.
        assert_eq!(passed(&mut limiter, "d", false, now + 1000), 250);
        assert_eq!(passed(&mut limiter, "e", false, now + 1000), 0);
        assert_eq!(passed(&mut limiter, "e", false, now + 100_000), 250);
        assert_eq!(limiter.functions.len(), 1);
    }
}
