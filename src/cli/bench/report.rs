//! What `bench` prints.

use crate::tools::bench::{Measurement, Rows, Subject};
use std::io::{self, Write};

/// A table, or JSON lines.
pub struct Report {
    json: bool,
    empty: bool,
}

impl Report {
    /// Of nothing yet.
    pub fn new(json: bool) -> Self {
        Self { json, empty: true }
    }

    /// Whether nothing was printed.
    pub fn is_empty(&self) -> bool {
        self.empty
    }

    /// Says what is measured.
    pub fn head(&mut self, rows: &Rows, subjects: &[Subject]) {
        self.empty = false;
        if self.json {
            return;
        }
        let device = subjects[0].device();
        println!(
            "{} ({}): {}, {} {} tokens each",
            device.name,
            device.id,
            rows.source,
            rows.vocab_size(),
            rows.dtype()
        );
        println!(
            "Out of cache: {:.1} MB a pass{}. The floor is one read of the same memory.",
            rows.bytes() as f64 / 1e6,
            cache_sizes().map_or(String::new(), |sizes| format!(" (caches: {sizes})")),
        );
        println!("Every case is compared with the reference, bit by bit, before it is timed.");
        println!();
        println!("{:19} {:9} {:>7}   {:>30}   {:>30}", "", "", "", "out of cache", "in cache");
        println!(
            "{:19} {:9} {:>7}   {:>9} {:>6} {:>6} {:>6}   {:>9} {:>6} {:>6} {:>6}",
            "case",
            "isa",
            "threads",
            "us/row",
            "GB/s",
            "floor",
            "ratio",
            "us/row",
            "GB/s",
            "floor",
            "ratio"
        );
    }

    /// One measurement; those of a case in cache follow those out of it.
    pub fn line(&self, measured: &Measurement) -> io::Result<()> {
        let mut out = io::stdout().lock();
        if self.json {
            serde_json::to_writer(&mut out, measured)?;
            return writeln!(out);
        }
        if !measured.cached {
            write!(out, "{:19} {:9} {:>7}", measured.case, measured.isa, measured.threads)?;
        }
        write!(
            out,
            "   {:>9.1} {:>6.1} {:>6.1} {:>6.2}",
            measured.us_per_row, measured.gb_per_s, measured.floor_us_per_row, measured.ratio
        )?;
        if measured.cached { writeln!(out) } else { out.flush() }
    }

    /// Explains the table.
    pub fn end(&self) {
        if !self.json {
            println!();
            println!(
                "floor: us a row of one read. ratio: reads that sampling takes, median of pairs of passes."
            );
        }
    }
}

/// The data caches of the first core, as the operating system describes them.
fn cache_sizes() -> Option<String> {
    let read = |index: u32, file: &str| {
        let path = format!("/sys/devices/system/cpu/cpu0/cache/index{index}/{file}");
        std::fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
    };
    let sizes: Vec<String> = (0..8)
        .filter(|&index| read(index, "type").is_some_and(|kind| kind != "Instruction"))
        .filter_map(|index| Some(format!("L{} {}", read(index, "level")?, read(index, "size")?)))
        .collect();
    (!sizes.is_empty()).then(|| sizes.join(", "))
}
