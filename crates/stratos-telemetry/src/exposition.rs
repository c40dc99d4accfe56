//! Metrics as text: in Prometheus' format 0.0.4, and as OpenMetrics 1.0, which differ in little.

use std::fmt::Write as _;

use crate::totals::{Buckets, Exemplar};

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `text/plain; version=0.0.4`.
    Prometheus,
    /// `application/openmetrics-text; version=1.0.0`. It alone has exemplars.
    OpenMetrics,
}

impl Format {
    /// The format that an `Accept` header asks for: OpenMetrics when it is named, whatever the weights.
    pub fn accepted(accept: &str) -> Self {
        let named = accept.split(',').any(|kind| {
            kind.split(';').next().is_some_and(|kind| kind.trim() == "application/openmetrics-text")
        });
        if named { Self::OpenMetrics } else { Self::Prometheus }
    }

    /// The `Content-Type` of it.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// What a metric is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// Names and values of labels.
pub(crate) type Labels<'a> = &'a [(&'a str, &'a str)];

/// Writes metrics.
#[derive(Debug)]
pub(crate) struct Writer {
    text: String,
    format: Format,
}

impl Writer {
    pub(crate) fn new(format: Format) -> Self {
        Self { text: String::with_capacity(16 << 10), format }
    }

    /// Begins a metric. A counter's name ends in `_total`.
    pub(crate) fn family(&mut self, name: &str, kind: Kind, help: &str) {
        let word = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        // OpenMetrics names the family without the suffix.
        let name = match self.format {
            Format::OpenMetrics => name.strip_suffix("_total").unwrap_or(name),
            Format::Prometheus => name,
        };
        self.put(format_args!("# HELP {name} {help}\n# TYPE {name} {word}\n"));
        let unit = name.rsplit('_').next().filter(|unit| ["seconds", "bytes"].contains(unit));
        if let (Format::OpenMetrics, Some(unit)) = (self.format, unit) {
            self.put(format_args!("# UNIT {name} {unit}\n"));
        }
    }

    /// One value.
    pub(crate) fn value(&mut self, name: &str, labels: Labels<'_>, value: u64) {
        self.sample(name, labels, None, format_args!("{value}"));
        self.text.push('\n');
    }

    /// All of a histogram; its buckets are said as sums up to each bound.
    pub(crate) fn histogram(&mut self, name: &str, labels: Labels<'_>, buckets: &Buckets) {
        let bucket = format!("{name}_bucket");
        let mut seen = 0;
        for (at, count) in buckets.counts.iter().enumerate() {
            seen += count;
            let bound = match buckets.bounds.get(at) {
                Some(bound) => self.number(*bound),
                None => "+Inf".to_owned(),
            };
            self.sample(&bucket, labels, Some(&bound), format_args!("{seen}"));
            let exemplar = buckets.exemplars.get(at).copied().flatten();
            if let (Format::OpenMetrics, Some(exemplar)) = (self.format, exemplar) {
                self.exemplar(exemplar);
            }
            self.text.push('\n');
        }
        self.sample(&format!("{name}_sum"), labels, None, format_args!("{}", buckets.sum));
        self.text.push('\n');
        self.value(&format!("{name}_count"), labels, seen);
    }

    fn sample(&mut self, name: &str, labels: Labels<'_>, le: Option<&str>, value: std::fmt::Arguments<'_>) {
        self.text.push_str(name);
        let all = labels.iter().copied().chain(le.map(|le| ("le", le)));
        for (i, (label, text)) in all.enumerate() {
            self.text.push(if i == 0 { '{' } else { ',' });
            self.put(format_args!("{label}=\""));
            escape(&mut self.text, text);
            self.text.push('"');
        }
        if !labels.is_empty() || le.is_some() {
            self.text.push('}');
        }
        self.put(format_args!(" {value}"));
    }

    fn exemplar(&mut self, Exemplar { trace_id, value, at_ms }: Exemplar) {
        let (s, ms) = (at_ms / 1000, at_ms % 1000);
        self.put(format_args!(" # {{trace_id=\"{trace_id:032x}\"}} {value} {s}.{ms:03}"));
    }

    /// A bound. OpenMetrics wants to see that it is no integer.
    fn number(&self, value: f64) -> String {
        let text = value.to_string();
        match self.format {
            Format::OpenMetrics if !text.contains('.') => text + ".0",
            _ => text,
        }
    }

    fn put(&mut self, text: std::fmt::Arguments<'_>) {
        self.text.write_fmt(text).expect("a String takes every write");
    }

    /// The text, with its end.
    pub(crate) fn finish(mut self) -> String {
        if self.format == Format::OpenMetrics {
            self.text.push_str("# EOF\n");
        }
        self.text
    }
}

/// A label's value: anything may stand in it.
fn escape(text: &mut String, value: &str) {
    for character in value.chars() {
        match character {
            '\\' => text.push_str("\\\\"),
            '"' => text.push_str("\\\""),
            '\n' => text.push_str("\\n"),
            other => text.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::totals::Totals;

    #[test]
    fn the_format_is_negotiated() {
        let prometheus = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,\
                          text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        for (accept, want) in [
            (prometheus, Format::OpenMetrics),
            ("application/openmetrics-text", Format::OpenMetrics),
            ("*/*", Format::Prometheus),
            ("", Format::Prometheus),
            ("text/plain", Format::Prometheus),
        ] {
            assert_eq!(Format::accepted(accept), want, "{accept}");
        }
    }

    fn written(format: Format) -> String {
        let mut totals = Totals::new(1);
        let mut record = crate::ended::tests::ended("f", 700, "ok").record;
        record.response_bytes = 200;
        totals.add(&record, 1_500);
        let mut writer = Writer::new(format);
        writer.family("a_b_total", Kind::Counter, "Things.");
        writer.value("a_b_total", &[("x", "q\"\\\n")], 3);
        writer.family("g", Kind::Gauge, "Now.");
        writer.value("g", &[], 0);
        writer.family("s_bytes", Kind::Histogram, "Sizes.");
        let counted = totals.rows().next().unwrap().1;
        writer.histogram("s_bytes", &[("function", "f")], &counted.sent);
        writer.finish()
    }

    #[test]
    fn both_formats_are_written() {
        let prometheus = "\
# HELP a_b_total Things.
# TYPE a_b_total counter
a_b_total{x=\"q\\\"\\\\\\n\"} 3
# HELP g Now.
# TYPE g gauge
g 0
# HELP s_bytes Sizes.
# TYPE s_bytes histogram
s_bytes_bucket{function=\"f\",le=\"128\"} 0
s_bytes_bucket{function=\"f\",le=\"1024\"} 1
s_bytes_bucket{function=\"f\",le=\"16384\"} 1
s_bytes_bucket{function=\"f\",le=\"131072\"} 1
s_bytes_bucket{function=\"f\",le=\"1048576\"} 1
s_bytes_bucket{function=\"f\",le=\"6291456\"} 1
s_bytes_bucket{function=\"f\",le=\"+Inf\"} 1
s_bytes_sum{function=\"f\"} 200
s_bytes_count{function=\"f\"} 1
";
        assert_eq!(written(Format::Prometheus), prometheus);
        let open = written(Format::OpenMetrics);
        assert!(open.starts_with("# HELP a_b Things.\n# TYPE a_b counter\na_b_total{"), "{open}");
        assert!(open.contains("# UNIT s_bytes bytes\n") && open.contains("le=\"128.0\"} 0\n"), "{open}");
        assert!(open.ends_with("# EOF\n"));
    }
}
