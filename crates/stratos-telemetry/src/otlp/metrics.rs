//! Counters as metrics, by OpenTelemetry's own names.

use prost::Message as _;

use super::message::{
    CUMULATIVE, Data, Histogram, HistogramPoint, KeyValue, Metric, MetricsRequest, NumberPoint,
    ResourceMetrics, ScopeMetrics, Sum,
};
use super::{Sender, resource, scope, text};
use crate::totals::{Buckets, Counted, Totals};

/// The time that the counters are of, nanoseconds since 1970.
#[derive(Debug, Clone, Copy)]
struct Interval {
    start: u64,
    now: u64,
}

/// A request with all counters since `start_ns`, and how many points it holds.
pub fn metrics(totals: &Totals, sender: &Sender, start_ns: u64, now_ns: u64) -> (Vec<u8>, u64) {
    let interval = Interval { start: start_ns, now: now_ns };
    let metrics = all(totals, interval);
    let points = metrics.iter().map(points).sum();
    let attributes = vec![
        text("service.name", "stratos"),
        text("service.version", &sender.version),
        text("host.name", &sender.host),
    ];
    let of_node = ResourceMetrics {
        resource: resource(attributes),
        scope_metrics: vec![ScopeMetrics { scope: scope(sender), metrics }],
    };
    (MetricsRequest { resource_metrics: vec![of_node] }.encode_to_vec(), points)
}

fn points(metric: &Metric) -> u64 {
    match &metric.data {
        Some(Data::Sum(sum)) => sum.data_points.len() as u64,
        Some(Data::Histogram(histogram)) => histogram.data_points.len() as u64,
        None => 0,
    }
}

fn all(totals: &Totals, interval: Interval) -> Vec<Metric> {
    let plain = |of: fn(&Counted) -> u64| -> Vec<(Vec<KeyValue>, u64)> {
        totals.rows().map(|(name, row)| (named(name, None), of(row))).collect()
    };
    let mut errors = Vec::new();
    let mut starts = Vec::new();
    let mut inits = Vec::new();
    let mut io = Vec::new();
    for (name, row) in totals.rows() {
        for (blame, count) in ["client", "function", "platform"].iter().zip(row.errors) {
            errors.push((named(name, Some(("stratos.blame", blame))), count));
        }
        for (start, buckets) in ["cold", "restored"].iter().zip(&row.init) {
            let attributes = named(name, Some(("stratos.start", start)));
            starts.push((attributes.clone(), buckets.counts.iter().sum()));
            inits.push((attributes, buckets));
        }
        for (direction, buckets) in [("receive", &row.received), ("transmit", &row.sent)] {
            io.push((named(name, Some(("network.io.direction", direction))), buckets));
        }
    }
    let of = |of: fn(&Counted) -> &Buckets| -> Vec<(Vec<KeyValue>, &Buckets)> {
        totals.rows().map(|(name, row)| (named(name, None), of(row))).collect()
    };
    vec![
        sum("faas.invocations", "{invocation}", plain(|row| row.succeeded), interval),
        sum("faas.errors", "{error}", errors, interval),
        sum("faas.timeouts", "{timeout}", plain(|row| row.timeouts), interval),
        sum("faas.coldstarts", "{coldstart}", starts, interval),
        histogram("faas.invoke_duration", "s", of(|row| &row.invoke), interval),
        histogram("faas.init_duration", "s", inits, interval),
        histogram("faas.cpu_usage", "s", of(|row| &row.cpu), interval),
        histogram("faas.mem_usage", "By", of(|row| &row.memory), interval),
        histogram("faas.net_io", "By", io, interval),
    ]
}

fn named(function: &str, more: Option<(&str, &str)>) -> Vec<KeyValue> {
    std::iter::once(text("faas.name", function)).chain(more.map(|(name, value)| text(name, value))).collect()
}

fn metric(name: &str, unit: &str, data: Data) -> Metric {
    Metric { name: name.into(), description: String::new(), unit: unit.into(), data: Some(data) }
}

fn sum(name: &str, unit: &str, values: Vec<(Vec<KeyValue>, u64)>, interval: Interval) -> Metric {
    let point = |(attributes, value): (Vec<KeyValue>, u64)| NumberPoint {
        start_time_unix_nano: interval.start,
        time_unix_nano: interval.now,
        as_int: Some(i64::try_from(value).unwrap_or(i64::MAX)),
        attributes,
    };
    let data_points = values.into_iter().map(point).collect();
    metric(
        name,
        unit,
        Data::Sum(Sum { data_points, aggregation_temporality: CUMULATIVE, is_monotonic: true }),
    )
}

fn histogram(name: &str, unit: &str, values: Vec<(Vec<KeyValue>, &Buckets)>, interval: Interval) -> Metric {
    let point = |(attributes, buckets): (Vec<KeyValue>, &Buckets)| HistogramPoint {
        start_time_unix_nano: interval.start,
        time_unix_nano: interval.now,
        count: buckets.counts.iter().sum(),
        sum: Some(buckets.sum),
        bucket_counts: buckets.counts.clone(),
        explicit_bounds: buckets.bounds.to_vec(),
        attributes,
    };
    let data_points = values.into_iter().map(point).collect();
    metric(name, unit, Data::Histogram(Histogram { data_points, aggregation_temporality: CUMULATIVE }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ended::tests::ended;

    #[test]
    fn counters_are_told_by_opentelemetrys_names() {
        let mut totals = Totals::new(5);
        totals.add(&ended("f", 700, "ok").record, 1);
        totals.add(&ended("f", 700, "function_error").record, 1);
        let (request, points) = metrics(&totals, &Sender::default(), 1, 2);
        let request = MetricsRequest::decode(&*request).unwrap();
        let metrics = &request.resource_metrics[0].scope_metrics[0].metrics;
        assert_eq!((metrics.len(), points), (9, 1 + 3 + 1 + 2 + 1 + 2 + 1 + 1 + 2));
        let Some(Data::Sum(errors)) = &metrics[1].data else { panic!("{metrics:?}") };
        assert_eq!(errors.data_points.iter().map(|p| p.as_int.unwrap()).collect::<Vec<_>>(), [0, 1, 0]);
        let Some(Data::Histogram(durations)) = &metrics[4].data else { panic!("{metrics:?}") };
        let point = &durations.data_points[0];
        assert_eq!((point.count, point.bucket_counts.len()), (2, point.explicit_bounds.len() + 1));
        assert_eq!((point.bucket_counts[1], point.start_time_unix_nano, point.time_unix_nano), (2, 1, 2));
    }
}
