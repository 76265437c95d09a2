//! Statuses as the text of OpenMetrics (<https://prometheus.io/docs/specs/om/open_metrics_spec/>):
//! how families and samples are written. Which there are is in [`super::families`].

use super::families;
use crate::control::wire::{OperationReport, StatusReport};
use crate::server::alert::AlertCount;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;
use std::fmt;
use uraid_engine::status::LatencyTotals;

/// What HTTP calls this text.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// One array, looked at.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Its name.
    pub name: String,
    /// How it is; none if it does not say so in time, or has ended.
    pub status: Option<StatusReport>,
}

/// All metrics of these arrays, and of the ways that alerts go.
pub fn render(arrays: Vec<Seen>, alerts: Vec<AlertCount>) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Snapshot(arrays, alerts)));
    let mut page = String::new();
    text::encode(&mut page, &registry).expect("a string takes everything");
    page
}

#[derive(Debug)]
struct Snapshot(Vec<Seen>, Vec<AlertCount>);

impl Collector for Snapshot {
    fn encode(&self, encoder: DescriptorEncoder) -> fmt::Result {
        let (arrays, alerts) = (&self.0, &self.1);
        families::write(&mut Page { encoder, arrays }, alerts)
    }
}

/// What is being written.
pub struct Page<'e, 'a> {
    encoder: DescriptorEncoder<'e>,
    arrays: &'a [Seen],
}

/// The samples of one family.
pub struct Samples<'e, 'a> {
    encoder: MetricEncoder<'e>,
    /// The array that is written about; none for the server.
    array: Option<&'a str>,
    result: fmt::Result,
}

/// A sample's value.
pub enum Value<'a> {
    /// Goes up and down.
    Gauge(f64),
    /// Only grows, while the server runs.
    Counter(u64),
    /// The same, of time.
    Nanos(u64),
    /// How long something took.
    Histogram(&'a OperationReport),
}

impl Page<'_, '_> {
    /// A family that each array has samples of.
    pub fn arrays(
        &mut self,
        (name, help, kind): (&str, &str, MetricType),
        each: impl Fn(&StatusReport, &mut Samples),
    ) -> fmt::Result {
        self.all((name, help, kind), |seen, samples| {
            if let Some(status) = &seen.status {
                each(status, samples);
            }
        })
    }

    /// The same, told of arrays too that do not say how they are.
    pub fn all(
        &mut self,
        (name, help, kind): (&str, &str, MetricType),
        each: impl Fn(&Seen, &mut Samples),
    ) -> fmt::Result {
        let encoder = self.encoder.encode_descriptor(name, help, None, kind)?;
        let mut samples = Samples {
            encoder,
            array: None,
            result: Ok(()),
        };
        for seen in self.arrays {
            samples.array = Some(&seen.name);
            each(seen, &mut samples);
        }
        samples.result
    }

    /// A family of the server itself.
    pub fn server(
        &mut self,
        (name, help, kind): (&str, &str, MetricType),
        write: impl Fn(&mut Samples),
    ) -> fmt::Result {
        let encoder = self.encoder.encode_descriptor(name, help, None, kind)?;
        let mut samples = Samples {
            encoder,
            array: None,
            result: Ok(()),
        };
        write(&mut samples);
        samples.result
    }
}

impl Samples<'_, '_> {
    /// One sample, with these labels beside that of the array.
    pub fn add(&mut self, labels: &[(&str, &str)], value: Value) {
        if self.result.is_ok() {
            self.result = self.write(labels, value);
        }
    }

    fn write(&mut self, labels: &[(&str, &str)], value: Value) -> fmt::Result {
        let array = self.array.map(|name| ("array", name));
        let labels: Vec<(&str, &str)> = array.into_iter().chain(labels.iter().copied()).collect();
        let mut sample = self.encoder.encode_family(&labels)?;
        let no_exemplar = None::<&prometheus_client::metrics::exemplar::Exemplar<NoLabelSet, u64>>;
        match value {
            Value::Gauge(value) => sample.encode_gauge(&value),
            Value::Counter(value) => sample.encode_counter(&value, no_exemplar),
            Value::Nanos(nanos) => sample.encode_counter(&(nanos as f64 / 1e9), no_exemplar),
            Value::Histogram(done) => {
                let bounds = (0..LatencyTotals::BUCKETS).map(bound_seconds);
                let buckets: Vec<_> = bounds.zip(done.latency.iter().copied()).collect();
                let (seconds, count) = (done.nanos as f64 / 1e9, done.operations);
                sample.encode_histogram::<NoLabelSet>(seconds, count, &buckets, None)
            }
        }
    }
}

/// The longest time that is counted in a bucket.
fn bound_seconds(bucket: usize) -> f64 {
    LatencyTotals::bound_micros(bucket).map_or(f64::INFINITY, |micros| micros as f64 / 1e6)
}
