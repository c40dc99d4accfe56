//! W3C Trace Context (<https://www.w3.org/TR/trace-context/>): parsed at the edge, one child per invocation.

use std::fmt;

use crate::id::random_bytes;

/// Longest `tracestate` kept, in characters; the recommendation asks for at least 512.
const MAX_TRACESTATE: usize = 1024;
/// Most list members of a `tracestate`.
const MAX_MEMBERS: usize = 32;
/// Longest X-Ray header read; AWS's own stay below half of it.
const MAX_XRAY: usize = 512;

/// Where an invocation stands in a distributed trace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceContext {
    trace_id: [u8; 16],
    span_id: [u8; 8],
    /// The span above, if there is one.
    parent: Option<[u8; 8]>,
    flags: u8,
    state: Option<String>,
}

impl TraceContext {
    /// Reads the two headers. `None` when `traceparent` is not valid, as the recommendation asks: the receiver then
    /// starts a trace of its own. A `tracestate` that breaks a limit is dropped alone.
    pub fn parse(traceparent: &str, tracestate: Option<&str>) -> Option<Self> {
        let bytes = traceparent.as_bytes();
        let version = hex::<1>(bytes.get(0..2)?)?[0];
        // Version 0 has exactly four fields; a later one may append more behind a dash.
        let length_ok = bytes.len() == 55 || version > 0 && bytes.get(55) == Some(&b'-');
        let dashes_ok = [2, 35, 52].iter().all(|at| bytes.get(*at) == Some(&b'-'));
        if version == 0xff || !length_ok || !dashes_ok {
            return None;
        }
        let trace_id = hex::<16>(&bytes[3..35])?;
        let span_id = hex::<8>(&bytes[36..52])?;
        let flags = hex::<1>(&bytes[53..55])?[0];
        if trace_id == [0; 16] || span_id == [0; 8] {
            return None;
        }
        let state = tracestate.map(str::trim).filter(|s| valid_state(s)).map(str::to_owned);
        Some(Self { trace_id, span_id, parent: None, flags, state })
    }

    /// A span below what AWS's trace header (`X-Amzn-Trace-Id`) says: `Root=1-<8 hex>-<24 hex>;Parent=<16 hex>;Sampled=<0 or 1>`,
    /// the parts in any order, others left out. `None` when it is not valid. Without `Parent` no span is above.
    pub fn below_xray(header: &str) -> Option<Self> {
        if header.len() > MAX_XRAY {
            return None;
        }
        let (mut trace_id, mut parent, mut flags) = (None, None, 0);
        for part in header.split(';') {
            match part.trim().split_once('=') {
                Some(("Root", root)) => {
                    let (time, random) = root.strip_prefix("1-")?.split_once('-')?;
                    trace_id =
                        Some(hex::<16>(format!("{time}{random}").as_bytes()).filter(|_| time.len() == 8)?);
                }
                Some(("Parent", id)) => parent = Some(hex::<8>(id.as_bytes()).filter(|id| *id != [0; 8])?),
                Some(("Sampled", sampled)) => flags = u8::from(sampled == "1"),
                _ => {}
            }
        }
        let trace_id = trace_id.filter(|id| *id != [0; 16])?;
        Some(Self { trace_id, span_id: new_span(), parent, flags, state: None })
    }

    /// A new trace. It says that it is sampled: whether the node keeps an invocation is known only at its end, and functions
    /// that trace themselves go by this.
    pub fn root() -> Self {
        // All-zero ids are forbidden; 2^-64 is not worth a loop but a set bit costs nothing.
        let mut trace_id = random_bytes::<16>();
        trace_id[15] |= 1;
        Self { trace_id, span_id: new_span(), parent: None, flags: 1, state: None }
    }

    /// A span below this one: same trace, new span id.
    pub fn child(&self) -> Self {
        Self { span_id: new_span(), parent: Some(self.span_id), ..self.clone() }
    }

    /// The value of the `traceparent` header.
    pub fn traceparent(&self) -> String {
        format!("00-{}-{}-{:02x}", Hex(&self.trace_id), Hex(&self.span_id), self.flags & 1)
    }

    /// The value of the `tracestate` header, if there is one.
    pub fn tracestate(&self) -> Option<&str> {
        self.state.as_deref()
    }

    /// The trace id, 32 hex digits.
    pub fn trace_id(&self) -> String {
        Hex(&self.trace_id).to_string()
    }

    /// The id of its span, 16 hex digits.
    pub fn span_id(&self) -> String {
        Hex(&self.span_id).to_string()
    }

    /// The id of the span above, 16 hex digits.
    pub fn parent_span_id(&self) -> Option<String> {
        self.parent.map(|id| Hex(&id).to_string())
    }

    /// Whether it is sampled, and somebody above has said so.
    pub fn is_sampled_above(&self) -> bool {
        self.parent.is_some() && self.flags & 1 == 1
    }

    /// The same context as an X-Ray trace header, which Lambda clients know.
    pub fn xray(&self) -> String {
        let id = self.trace_id();
        let sampled = self.flags & 1;
        format!("Root=1-{}-{};Parent={};Sampled={sampled}", &id[..8], &id[8..], Hex(&self.span_id))
    }
}

fn new_span() -> [u8; 8] {
    let mut span = random_bytes::<8>();
    span[7] |= 1;
    span
}

/// Lower-case hex of exactly `N` bytes: upper case is invalid in `traceparent`.
fn hex<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    let nibble = |b: u8| match b {
        b'0'..=b'9' => Some(b - b'0'),
        b'a'..=b'f' => Some(b - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    if text.len() != 2 * N {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
    }
    Some(bytes)
}

fn valid_state(state: &str) -> bool {
    let member =
        |m: &str| m.trim().is_empty() || m.trim().split_once('=').is_some_and(|(k, _)| !k.is_empty());
    !state.is_empty()
        && state.len() <= MAX_TRACESTATE
        && state.bytes().all(|b| (0x20..0x7f).contains(&b) || b == b'\t')
        && state.split(',').count() <= MAX_MEMBERS
        && state.split(',').all(member)
}

struct Hex<'a>(&'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VALID: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn valid_context_round_trips() {
        let context = TraceContext::parse(VALID, Some("a=1,b=2")).unwrap();
        assert_eq!(context.traceparent(), VALID);
        assert_eq!(context.tracestate(), Some("a=1,b=2"));
        assert_eq!(
            context.xray(),
            "Root=1-4bf92f35-77b34da6a3ce929d0e0e4736;Parent=00f067aa0ba902b7;Sampled=1"
        );
        let child = context.child();
        assert_eq!(child.trace_id(), context.trace_id());
        assert_ne!(child.traceparent(), context.traceparent());
        assert!(TraceContext::parse(&TraceContext::root().traceparent(), None).is_some());
    }

    #[test]
    fn an_xray_header_is_the_same_context() {
        let context = TraceContext::parse(VALID, None).unwrap();
        let child = TraceContext::below_xray(&context.xray()).unwrap();
        assert_eq!(child.trace_id(), context.trace_id());
        assert_eq!(child.parent_span_id().as_deref(), Some("00f067aa0ba902b7"));
        assert!(
            child.is_sampled_above()
                && !context.is_sampled_above()
                && !TraceContext::root().is_sampled_above()
        );
        let root = "Root=1-5759e988-bd862e3fe1be46a994272793";
        let mixed = format!("Self=1-67891234-12456789abcdef012345678; Sampled=0;{root};Lineage=a:1|b:2");
        let mixed = TraceContext::below_xray(&mixed).unwrap();
        assert_eq!(mixed.trace_id(), "5759e988bd862e3fe1be46a994272793");
        assert!(!mixed.is_sampled_above() && mixed.parent_span_id().is_none());
        for wrong in [
            "",
            "Root",
            "Parent=00f067aa0ba902b7;Sampled=1",
            "Root=1-00000000-000000000000000000000000",
            "Root=1-5759e988b-d862e3fe1be46a994272793",
            "Root=2-5759e988-bd862e3fe1be46a994272793",
            "Root=1-5759E988-bd862e3fe1be46a994272793",
            &format!("{root};Parent=0"),
            &format!("{root};Parent=0000000000000000"),
            &format!("{root};{}", "x".repeat(600)),
            "Root=1-5759e98\u{fc}-bd862e3fe1be46a99427279",
        ] {
            assert_eq!(TraceContext::below_xray(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_later_version_may_be_longer() {
        assert!(TraceContext::parse(&format!("{}-what", VALID.replacen("00", "01", 1)), None).is_some());
        assert!(TraceContext::parse(&format!("{VALID}-what"), None).is_none());
    }

    #[test]
    fn invalid_contexts_are_dropped() {
        for wrong in [
            "",
            "00",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0",
            "00-4bf92f3577b34da6a3ce929d0e0e4736x00f067aa0ba902b7-01",
            "ü0-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ] {
            assert_eq!(TraceContext::parse(wrong, None), None, "{wrong}");
        }
    }

    #[test]
    fn a_bad_tracestate_is_dropped_alone() {
        for wrong in ["", "novalue", "=1", &"a=1,".repeat(33), &format!("a={}", "x".repeat(2000)), "a=\u{7f}"]
        {
            assert_eq!(TraceContext::parse(VALID, Some(wrong)).unwrap().tracestate(), None, "{wrong}");
        }
    }
}
