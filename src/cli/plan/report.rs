//! What a plan says, for people and for programs.

use super::super::output::table;
use super::args::PlanArgs;
use crate::sizes::{show_chance, show_hours, show_share, show_size};
use serde::Serialize;
use uraid_plan::layout::{Layout, WriteCost};
use uraid_plan::outlook::{Assumptions, Loss, Outlook};
use uraid_plan::{NOT_COVERED, YEAR_HOURS};

/// `uraid plan --json`. Fields may be added, never changed or removed.
#[derive(Serialize)]
pub struct Report {
    members: usize,
    spares: usize,
    member_bytes: u64,
    assumptions: AssumptionsReport,
    /// The one that was asked for, or all.
    layouts: Vec<LayoutReport>,
    /// What the figures do not know of.
    not_covered: &'static [&'static str],
    #[serde(skip)]
    compares: bool,
}

#[derive(Serialize)]
struct AssumptionsReport {
    mtbf_hours: f64,
    detection_hours: f64,
    /// 0 with a spare.
    swap_hours: f64,
    rebuild_bytes_per_second: f64,
    used_share: f64,
    ure_per_bit: f64,
    latent_per_year: f64,
    scrub_hours: Option<f64>,
    life_hours: f64,
}

#[derive(Serialize)]
struct LayoutReport {
    name: String,
    level: &'static str,
    data: usize,
    parity: usize,
    chunk_bytes: u32,
    size_bytes: u64,
    /// Share of all members' bytes, spares included.
    efficiency: f64,
    losses_guaranteed: usize,
    losses_lucky: usize,
    /// Beyond what is guaranteed: how likely it is to survive so many losses at once.
    lucky: Vec<Lucky>,
    write: WriteReport,
    rebuild_bytes: u64,
    rebuild_hours: f64,
    /// From a failure until the redundancy is back.
    repair_hours: f64,
    failures_per_year: f64,
    member_availability: f64,
    degraded_share: f64,
    availability: f64,
    array_loss: LossReport,
    /// A block or the array, with scrubs.
    any_loss: LossReport,
    any_loss_without_scrubs: LossReport,
    /// The chance that a rebuild without redundancy left meets a block that it cannot read.
    bad_rebuild: f64,
}

#[derive(Serialize)]
struct Lucky {
    losses: usize,
    survival: f64,
}

#[derive(Serialize)]
struct WriteReport {
    small_in_place_blocks: usize,
    small_journal_blocks: usize,
    small_header_blocks_max: usize,
    small_read_blocks: usize,
    stream_bytes_per_byte: f64,
}

#[derive(Serialize)]
struct LossReport {
    mean_years: f64,
    within_year: f64,
}

impl Report {
    /// Works out what is to be expected of `layouts`.
    pub fn new(args: &PlanArgs, layouts: &[Layout], a: Assumptions) -> Report {
        let layout = |layout: &Layout| LayoutReport::new(layout, args.spares, &a);
        Report {
            members: args.members,
            spares: args.spares,
            member_bytes: args.size,
            assumptions: AssumptionsReport {
                mtbf_hours: a.mtbf_hours,
                detection_hours: a.detection_hours,
                swap_hours: a.swap_hours,
                rebuild_bytes_per_second: a.rebuild_bytes_per_second,
                used_share: a.used_share,
                ure_per_bit: a.ure_per_bit,
                latent_per_year: a.latent_per_year,
                scrub_hours: a.scrub_hours,
                life_hours: a.life_hours,
            },
            layouts: layouts.iter().map(layout).collect(),
            not_covered: &NOT_COVERED,
            compares: args.level.is_none(),
        }
    }

    /// For a terminal.
    pub fn text(&self) -> String {
        let spares = match self.spares {
            0 => String::new(),
            spares => format!(" and {spares} in reserve"),
        };
        let what = format!(
            "{} members of {}{spares}",
            self.members,
            show_size(self.member_bytes)
        );
        let mut lines = match self.compares {
            true => vec![
                format!("plan    {what}: what they can be"),
                String::new(),
                self.table(),
            ],
            false => self.layouts[0].lines(&what),
        };
        if self.compares {
            lines.push(String::new());
            lines.extend(TABLE_LEGEND.map(String::from));
        }
        lines.push(format!("assumed {}", self.assumptions.text()));
        let caveat = |(i, text): (usize, &&str)| {
            let label = if i == 0 { "beware " } else { "       " };
            format!("{label} {text}")
        };
        lines.extend(self.not_covered.iter().enumerate().map(caveat));
        lines.join("\n")
    }

    fn table(&self) -> String {
        let header = [
            "layout",
            "usable",
            "share",
            "survives",
            "repair",
            "loss in a year",
            "or a block",
            "4 KiB write",
            "stream",
        ];
        let rows: Vec<Vec<String>> = self.layouts.iter().map(LayoutReport::row).collect();
        table(&header, &rows)
    }
}

const TABLE_LEGEND: [&str; 4] = [
    "survives     losses at once: whichever they are, and up to which number with luck",
    "repair       from a failure until the redundancy is back; never where there is none",
    "loss         too many members out at once; or a block that nobody can give any more",
    "4 KiB write  blocks written (in place and journalled, headers not counted) and read; stream: \
     bytes written a byte",
];

impl AssumptionsReport {
    fn text(&self) -> String {
        let swap = match self.swap_hours {
            0.0 => "spares begin by themselves".to_string(),
            hours => format!("a new member is there after {}", show_hours(hours)),
        };
        let scrubs = self.scrub_hours.map_or("no scrubs".to_string(), |hours| {
            format!("a scrub every {}", show_hours(hours))
        });
        format!(
            "a member fails every {} ({} a year); {swap}; rebuilds of {}/s; {} in use; {:e} bad \
             bits of each read, {} blocks a year bad unseen; {scrubs}",
            show_hours(self.mtbf_hours),
            show_share(-(-YEAR_HOURS / self.mtbf_hours).exp_m1()),
            show_size(self.rebuild_bytes_per_second as u64),
            show_share(self.used_share),
            self.ure_per_bit,
            self.latent_per_year,
        )
    }
}

impl LayoutReport {
    fn new(layout: &Layout, spares: usize, a: &Assumptions) -> LayoutReport {
        let outlook = Outlook::new(layout, a);
        let unscrubbed = Outlook::new(
            layout,
            &Assumptions {
                scrub_hours: None,
                ..*a
            },
        );
        let (guaranteed, lucky) = (layout.losses_guaranteed(), layout.losses_lucky());
        let survival = |losses| Lucky {
            losses,
            survival: layout.survival(losses),
        };
        LayoutReport {
            name: layout.name(),
            level: layout.shape.level.as_str(),
            data: layout.shape.data,
            parity: layout.shape.user_parity(),
            chunk_bytes: layout.shape.chunk_bytes,
            size_bytes: layout.usable_bytes(),
            efficiency: layout.efficiency(spares),
            losses_guaranteed: guaranteed,
            losses_lucky: lucky,
            lucky: (guaranteed + 1..=lucky).map(survival).collect(),
            write: WriteReport::from(layout.write_cost()),
            rebuild_bytes: outlook.rebuild_bytes as u64,
            rebuild_hours: outlook.rebuild_hours,
            repair_hours: outlook.repair_hours,
            failures_per_year: outlook.failures_per_year,
            member_availability: outlook.member_availability,
            degraded_share: outlook.degraded_share,
            availability: outlook.availability,
            array_loss: LossReport::from(outlook.array_loss),
            any_loss: LossReport::from(outlook.any_loss),
            any_loss_without_scrubs: LossReport::from(unscrubbed.any_loss),
            bad_rebuild: outlook.bad_rebuild,
        }
    }

    fn lines(&self, what: &str) -> Vec<String> {
        let mut lines = vec![
            format!(
                "plan    {what}: {} {}+{}, chunk {}",
                self.level,
                self.data,
                self.parity,
                show_size(self.chunk_bytes.into())
            ),
            format!(
                "usable  {}, {} of what there is",
                show_size(self.size_bytes),
                show_share(self.efficiency)
            ),
            format!("losses  {}", self.losses()),
        ];
        if self.losses_guaranteed > 0 {
            lines.push(format!(
                "rebuild copies {} onto one member in {}; the redundancy is back {} after a \
                 failure",
                show_size(self.rebuild_bytes),
                show_hours(self.rebuild_hours),
                show_hours(self.repair_hours)
            ));
        }
        lines.extend([
            format!("write   {}", self.write.text()),
            format!(
                "members {:.2} failures a year in all; each is available {} of the time; some \
                 member is out {} of it",
                self.failures_per_year,
                show_share(self.member_availability),
                show_share(self.degraded_share)
            ),
            format!("loss    of the array: {}", self.array_loss.text()),
            format!("        or of a block: {}", self.any_loss.text()),
            format!(
                "        without scrubs: {}",
                self.any_loss_without_scrubs.text()
            ),
            format!(
                "served  {} of the time, if a loss is made good from a backup",
                show_share(self.availability)
            ),
        ]);
        lines
    }

    fn losses(&self) -> String {
        let sure = match self.losses_guaranteed {
            0 => "none is survived".to_string(),
            1 => "any one member".to_string(),
            n => format!("any {n} members at once"),
        };
        let chance =
            |lucky: &Lucky| format!("{} with {}", lucky.losses, show_share(lucky.survival));
        let lucky: Vec<String> = self.lucky.iter().map(chance).collect();
        match lucky.is_empty() {
            true => sure,
            false => format!("{sure}; with luck more: {}", lucky.join(", ")),
        }
    }

    fn row(&self) -> Vec<String> {
        let survives = match (self.losses_guaranteed, self.losses_lucky) {
            (0, _) => "none".to_string(),
            (sure, lucky) if lucky > sure => format!("any {sure}, up to {lucky}"),
            (sure, _) => format!("any {sure}"),
        };
        let repair = match self.losses_guaranteed {
            0 => "never".to_string(),
            _ => show_hours(self.repair_hours),
        };
        let write = &self.write;
        vec![
            self.name.clone(),
            show_size(self.size_bytes),
            show_share(self.efficiency),
            survives,
            repair,
            show_chance(self.array_loss.within_year),
            show_chance(self.any_loss.within_year),
            format!(
                "{} + {}",
                write.small_in_place_blocks + write.small_journal_blocks,
                write.small_read_blocks
            ),
            format!("{:.2}", write.stream_bytes_per_byte),
        ]
    }
}

impl WriteReport {
    fn text(&self) -> String {
        format!(
            "4 KiB: {} blocks in place, {} journalled with up to {} headers, {} read before; a \
             stream: {:.2} bytes a byte",
            self.small_in_place_blocks,
            self.small_journal_blocks,
            self.small_header_blocks_max,
            self.small_read_blocks,
            self.stream_bytes_per_byte
        )
    }
}

impl From<WriteCost> for WriteReport {
    fn from(cost: WriteCost) -> WriteReport {
        WriteReport {
            small_in_place_blocks: cost.small_in_place_blocks,
            small_journal_blocks: cost.small_journal_blocks,
            small_header_blocks_max: cost.small_header_blocks_max,
            small_read_blocks: cost.small_read_blocks,
            stream_bytes_per_byte: cost.stream_bytes_per_byte,
        }
    }
}

impl LossReport {
    fn text(&self) -> String {
        format!(
            "{} in a year, every {} on average",
            show_chance(self.within_year),
            show_hours(self.mean_years * YEAR_HOURS)
        )
    }
}

impl From<Loss> for LossReport {
    fn from(loss: Loss) -> LossReport {
        LossReport {
            mean_years: loss.mean_hours / YEAR_HOURS,
            within_year: loss.within_year,
        }
    }
}
