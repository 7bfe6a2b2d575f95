//! `annulus history`: the last changes of the map, newest first, and the ring as one of them left it.

use std::io::{self, BufWriter, Write};

use annulus_client::admin::HistoryEvent;
use serde_json::json;

use crate::exit::Failure;
use crate::output::{self, Format};
use crate::{args, members, ring};

/// Lists the changes, or shows the ring after one.
pub(crate) async fn run(arguments: args::History) -> Result<(), Failure> {
    let admin = arguments.connect.client()?.admin().await?;
    if let Some(epoch) = arguments.epoch {
        return ring::show(&admin.ring_at(epoch).await.map_err(members::refused)?, arguments.output, false);
    }
    let events = admin.history().await?;
    let mut out = BufWriter::new(io::stdout().lock());
    match arguments.output {
        Format::Json => writeln!(out, "{}", json!({ "events": events }))?,
        Format::Text => {
            for line in lines(&events) {
                writeln!(out, "{line}")?;
            }
        }
    }
    Ok(out.flush()?)
}

fn lines(events: &[HistoryEvent]) -> Vec<String> {
    let rows = events.iter().map(|event| {
        let epochs = match event.first_epoch {
            first if first < event.epoch => format!("{first}-{}", event.epoch),
            _ => event.epoch.to_string(),
        };
        let fence = if event.fence == 0 { "-".to_owned() } else { event.fence.to_string() };
        let at = event.at.clone().unwrap_or_else(|| "-".to_owned());
        vec![epochs, at, fence, event.reason.clone(), event.message.clone()]
    });
    output::table(&["epoch", "at", "fence", "reason", "what"], &[0, 2], &rows.collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_that_stand_as_one_show_both_ends() {
        let event = |first_epoch, at: Option<&str>, fence| HistoryEvent {
            epoch: 40,
            first_epoch,
            at: at.map(str::to_owned),
            fence,
            reason: "moves".into(),
            message: "28 moves".into(),
        };
        let lines = lines(&[event(13, None, 0), event(40, Some("2026-11-25T03:00:00Z"), 7)]);
        let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(words(&lines[1]), ["13-40", "-", "-", "moves", "28", "moves"]);
        assert_eq!(words(&lines[2]), ["40", "2026-11-25T03:00:00Z", "7", "moves", "28", "moves"]);
    }
}
