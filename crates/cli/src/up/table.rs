//! The live table: which instance is up, where, and how it is.

use crate::output;

/// One row.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) instance: String,
    pub(super) address: String,
    pub(super) process: String,
    pub(super) state: &'static str,
    pub(super) restarts: u32,
}

/// A table that is drawn again in place on a terminal, and printed once a change elsewhere.
#[derive(Default)]
pub(super) struct Table {
    shown: Vec<Row>,
    lines: usize,
}

impl Table {
    /// Shows `rows` if they differ from what is shown.
    pub(super) fn show(&mut self, rows: Vec<Row>) {
        if rows == self.shown {
            return;
        }
        let cells: Vec<Vec<String>> = rows
            .iter()
            .map(|row| {
                vec![
                    row.instance.clone(),
                    row.address.clone(),
                    row.process.clone(),
                    format!("{} {}", if row.state == "healthy" { "●" } else { "○" }, row.state),
                    row.restarts.to_string(),
                ]
            })
            .collect();
        let text = output::table(&["INSTANCE", "ADDRESS", "PROCESS", "STATE", "RESTARTS"], &cells);
        if output::is_terminal() && self.lines > 0 {
            output::raw(&format!("\x1b[{}A\x1b[J{text}", self.lines));
        } else {
            output::raw(&text);
        }
        self.lines = text.lines().count();
        self.shown = rows;
    }

    /// Something else was printed: draw anew below it.
    pub(super) fn detach(&mut self) {
        self.lines = 0;
        self.shown.clear();
    }
}
