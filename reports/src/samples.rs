//! samples.csv: every sample of every trial, one a row (RFC 4180).
//!
//! Owns its columns. Nothing is left out: trials of failed cells are there with their status.

use crate::files::ReportError;
use cnibench_model::{Case, CaseId, CellStatus, NodePair, Record};
use std::collections::HashMap;

const HEAD: [&str; 32] = [
    "run_id",
    "case",
    "provider",
    "cni",
    "workload",
    "placement",
    "streams",
    "size",
    "response_size",
    "rate",
    "direction",
    "pinning",
    "congestion_control",
    "nodelay",
    "send_buffer",
    "receive_buffer",
    "gso",
    "duration_s",
    "status",
    "trial",
    "block",
    "sequence",
    "started",
    "clock",
    "metric",
    "unit",
    "value",
    // Behind the value, so that what reads columns by position still does.
    "policies",
    "services",
    "hubble",
    "client_node",
    "server_node",
];

/// The whole file.
pub(crate) fn csv(records: &[Record]) -> Result<Vec<u8>, ReportError> {
    let fail = |cause: String| ReportError::Make { what: "samples.csv".to_owned(), cause };
    let mut writer =
        csv::WriterBuilder::new().terminator(csv::Terminator::CRLF).from_writer(Vec::new());
    writer.write_record(HEAD).map_err(|e| fail(e.to_string()))?;
    for record in records {
        let cases: HashMap<&CaseId, &Case> =
            record.header.cases.iter().map(|c| (&c.id, c)).collect();
        let ends: HashMap<&CaseId, &CellStatus> =
            record.cells.iter().map(|c| (&c.case, &c.status)).collect();
        let mut prefixes: HashMap<&CaseId, Vec<String>> = HashMap::new();
        for trial in &record.trials {
            let prefix = prefixes.entry(&trial.case).or_insert_with(|| {
                case_fields(record, &trial.case, cases.get(&trial.case), ends.get(&trial.case))
            });
            let trial_fields = [
                trial.index.to_string(),
                trial.block.to_string(),
                trial.sequence.to_string(),
                trial.started.to_string(),
                record.header.clock.name().to_owned(),
            ];
            let around = around(cases.get(&trial.case));
            let node = |of: fn(&NodePair) -> &String| {
                trial.nodes.as_ref().map_or_else(String::new, |n| of(n).clone())
            };
            let nodes = [node(|n| &n.client), node(|n| &n.server)];
            for sample in &trial.samples {
                let (value, unit) = (sample.value.to_string(), sample.metric.unit());
                let own = [sample.metric.name(), unit.symbol_by(record.header.clock), &value];
                let fields = prefix.iter().chain(&trial_fields).map(String::as_str).chain(own);
                let fields = fields.chain(around.iter().chain(&nodes).map(String::as_str));
                writer.write_record(fields).map_err(|e| fail(e.to_string()))?;
            }
        }
    }
    writer.into_inner().map_err(|e| fail(e.to_string()))
}

/// What was asked of the cluster: empty where it was left as it came up.
fn around(case: Option<&&Case>) -> [String; 3] {
    let asked = case.map(|c| c.surroundings.named()).unwrap_or_default();
    ["policies", "services", "hubble"].map(|key| {
        let value = asked.iter().find(|(k, _)| *k == key);
        value.map_or_else(String::new, |(_, value)| value.clone())
    })
}

fn case_fields(
    record: &Record,
    id: &CaseId,
    case: Option<&&Case>,
    end: Option<&&CellStatus>,
) -> Vec<String> {
    let status = match end {
        Some(CellStatus::Measured) => "measured",
        Some(CellStatus::Skipped { .. }) => "skipped",
        Some(CellStatus::Failed { .. }) => "failed",
        Some(CellStatus::Invalid { .. }) => "invalid",
        Some(CellStatus::Interrupted { .. }) => "interrupted",
        None => "",
    };
    let mut fields = vec![record.header.run_id.clone(), id.0.clone()];
    match case {
        Some(case) => {
            let p = &case.params;
            let auto = |v: Option<u64>| v.map_or_else(|| "auto".to_owned(), |v| v.to_string());
            fields.extend([
                case.provider.name().to_owned(),
                case.cni.to_string(),
                case.workload.name().to_owned(),
                case.placement.name().to_owned(),
                p.streams.to_string(),
                p.size.to_string(),
                p.response_size.to_string(),
                p.rate.map_or_else(|| "max".to_owned(), |r| r.0.to_string()),
                p.direction.name().to_owned(),
                p.pinning.name().to_owned(),
                p.congestion_control.clone(),
                p.nodelay.to_string(),
                auto(p.send_buffer),
                auto(p.receive_buffer),
                p.gso.to_string(),
                case.duration_s.to_string(),
            ]);
        }
        // A trial of a case that the plan does not have: the id alone must do.
        None => fields.resize(18, String::new()),
    }
    fields.push(status.to_owned());
    fields
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{Builder, many_nodes, mixed, policies};

    #[test]
    fn surroundings_and_nodes_are_there_where_they_were_asked_for() {
        let column = |record: &Record, name: &str| -> Vec<String> {
            let bytes = csv(std::slice::from_ref(record)).unwrap();
            let mut reader = csv::Reader::from_reader(bytes.as_slice());
            let place = reader.headers().unwrap().iter().position(|h| h == name).unwrap();
            reader.records().map(|r| r.unwrap()[place].to_owned()).collect()
        };
        let policies = policies();
        assert!(column(&policies, "policies").contains(&"1000".to_owned()));
        assert!(column(&policies, "hubble").iter().all(String::is_empty));
        let nodes = many_nodes(3, usize::MAX);
        assert_eq!(
            column(&nodes, "client_node")[0],
            nodes.trials[0].nodes.as_ref().unwrap().client
        );
        assert!(column(&nodes, "server_node").contains(&"worker2".to_owned()));
    }

    #[test]
    fn every_sample_reads_back() {
        for record in [Builder::default().build(), mixed()] {
            let bytes = csv(std::slice::from_ref(&record)).unwrap();
            assert!(bytes.windows(2).any(|w| w == b"\r\n"));
            let mut reader = csv::Reader::from_reader(bytes.as_slice());
            assert_eq!(reader.headers().unwrap(), HEAD.as_slice());
            let rows: Vec<csv::StringRecord> = reader.records().map(Result::unwrap).collect();
            let samples: Vec<_> =
                record.trials.iter().flat_map(|t| t.samples.iter().map(move |s| (t, s))).collect();
            assert_eq!(rows.len(), samples.len());
            for (row, (trial, sample)) in rows.iter().zip(samples) {
                assert_eq!(&row[1], trial.case.0);
                assert_eq!(row[19].parse(), Ok(trial.index));
                assert_eq!(&row[24], sample.metric.name());
                assert_eq!(row[26].parse(), Ok(sample.value));
            }
        }
    }
}
