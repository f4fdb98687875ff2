//! A race of ours against everything else on the same packets, and what is reported of it.

use anyhow::{Context as _, Result};
use lb_common::{course::Course, verdict::Reason};

use crate::bench::{
    Options,
    course::onward,
    ground::Ground,
    race::{self, Distance, Entrant, Fate, Proof, Warm},
    report::{Bar, Figure, Report, middle},
    rig::{Baseline, End, Layer, Rig, Runnable},
};

/// Packets of a round that are timed, in most cases.
pub(super) const PACKETS: u32 = 100_000;
/// How reports call ours, and ours by XDP.
pub(super) const OURS: &str = "steerage";
pub(super) const OURS_BY_XDP: &str = "steerage, XDP";
/// What all cases measure.
pub(super) const COST: Figure = Figure::new("a packet, over the empty program", "ns");

/// Everything a case needs.
pub(super) struct Track<'a> {
    /// Our programs and tables.
    pub(super) ground: &'a mut Ground,
    /// The others'.
    pub(super) rig: &'a mut Rig,
    /// Where figures go.
    pub(super) report: &'a mut Report,
    /// Which cases are run.
    pub(super) options: &'a Options,
    /// What counts are divided by.
    pub(super) scale: u32,
    /// Rounds of a race.
    pub(super) rounds: usize,
}

/// One case.
pub(super) struct Case {
    /// Its name, for whoever is not ours.
    pub(super) name: String,
    /// Our programs, each with the name of the case for it.
    pub(super) ours: Vec<(String, Ours)>,
    /// The packets.
    pub(super) course: Course,
    /// What becomes of them.
    pub(super) fate: Fate,
    /// What ours counts them by at tc.
    pub(super) reason: Reason,
    /// Packets of a round that are timed.
    pub(super) packets: u32,
    /// What goes before them.
    pub(super) warm: Warm,
    /// Balancers that take part, and what ours should be to each.
    pub(super) rivals: Vec<(Baseline, Option<Bar>)>,
    /// Floors that are measured with them.
    pub(super) floors: &'static [Baseline],
    /// What ours should cost at most, in nanoseconds.
    pub(super) target: Option<f64>,
}

/// One of our programs in a case.
pub(super) enum Ours {
    /// This one, at tc.
    Tc(&'static str),
    /// The one for XDP, which takes the packets: programs for tc have seen them before, each as what.
    Takes(Vec<(&'static str, Course)>),
    /// The one for XDP, by which flows begin with them.
    Begins,
    /// The one for XDP, which leaves them to tc.
    Leaves,
}

impl Ours {
    const fn layer(&self) -> Layer {
        match self {
            Self::Tc(_) => Layer::Packets,
            Self::Takes(_) | Self::Begins | Self::Leaves => Layer::Frames,
        }
    }

    /// How reports call it.
    const fn name(&self) -> &'static str {
        match self {
            Self::Tc(_) => OURS,
            Self::Takes(_) | Self::Begins | Self::Leaves => OURS_BY_XDP,
        }
    }
}

/// All balancers, without bars.
pub(super) fn rivals() -> Vec<(Baseline, Option<Bar>)> {
    Baseline::BALANCERS.map(|it| (it, None)).to_vec()
}

impl Track<'_> {
    /// Whether any of these cases is run.
    pub(super) fn wants(&self, cases: impl IntoIterator<Item = impl AsRef<str>>) -> bool {
        let mut cases = cases.into_iter();
        cases.any(|case| self.options.wants(case.as_ref()))
    }

    /// Somebody else's program on these packets.
    pub(super) fn baseline(
        &mut self,
        baseline: Baseline,
        layer: Layer,
        (course, fate): (Course, Fate),
        proof: Proof,
    ) -> Result<Entrant> {
        let end = if baseline == Baseline::Sender {
            End::Sent
        } else {
            End::Next
        };
        Ok(Entrant {
            name: baseline.name(),
            program: self.rig.baseline(baseline, layer)?,
            course,
            fate,
            proof,
            end,
            before: Vec::new(),
        })
    }

    /// One of our programs on them.
    pub(super) fn ours(
        &mut self,
        ours: &Ours,
        course: Course,
        fate: Fate,
        reason: Reason,
    ) -> Result<Entrant> {
        let mut before = Vec::new();
        if let Ours::Takes(programs) = ours {
            for (name, course) in programs {
                before.push((self.ground.runnable(name)?, *course));
            }
        }
        let (program, proof, end): (Runnable, Proof, End) = match ours {
            Ours::Tc(name) => {
                let program = self.ground.runnable(name)?;
                (program, Proof::Counter(reason), End::Next)
            }
            Ours::Takes(_) => (self.ground.frames_runnable()?, Proof::Taken, End::Sent),
            Ours::Begins => (self.ground.frames_runnable()?, Proof::Begun, End::Sent),
            Ours::Leaves => (self.ground.frames_runnable()?, Proof::Left, End::Next),
        };
        Ok(Entrant {
            name: ours.name(),
            program,
            course,
            fate,
            proof,
            end,
            before,
        })
    }

    /// The program that costs nothing, on them.
    pub(super) fn empty(&mut self, layer: Layer, course: Course) -> Result<Entrant> {
        let untouched = (course, Fate::Untouched);
        self.baseline(Baseline::Empty, layer, untouched, Proof::Last)
    }

    /// Runs the entrants in turn; a hundredth of the packets in a smoke run.
    pub(super) fn race(
        &mut self,
        mut entrants: Vec<Entrant>,
        packets: u32,
        warm: Warm,
    ) -> Result<Vec<Vec<f64>>> {
        let distance = Distance {
            rounds: self.rounds,
            packets: packets / self.scale,
            warm,
        };
        race::run(self.ground, self.rig, &mut entrants, distance)
    }

    /// The same of so many entrants.
    pub(super) fn race_of<const N: usize>(
        &mut self,
        entrants: [Entrant; N],
        packets: u32,
        warm: Warm,
    ) -> Result<[Vec<f64>; N]> {
        let times = self.race(entrants.into(), packets, warm)?;
        times.try_into().ok().context("as many times as entrants")
    }

    /// Sends one packet of each of `flows` flows.
    pub(super) fn send(&mut self, program: &'static str, course: Course, flows: u32) -> Result<()> {
        let program = self.ground.runnable(program)?;
        self.rig.run(&program, &onward(course, 0), flows)?;
        Ok(())
    }

    /// The same to the balancers that remember.
    pub(super) fn send_to_rivals(&mut self, course: Course, flows: u32) -> Result<()> {
        for baseline in [Baseline::Lru, Baseline::Hash] {
            let program = self.rig.baseline(baseline, Layer::Packets)?;
            self.rig.run(&program, &onward(course, 0), flows)?;
        }
        Ok(())
    }

    /// Forgets every flow, at everybody.
    pub(super) fn start_anew(&mut self) -> Result<()> {
        self.ground.forget_flows()?;
        *self.rig = Rig::load(self.ground)?;
        Ok(())
    }

    /// Everybody on one course; gives what each of ours costs over the empty program, by round.
    pub(super) fn run(&mut self, case: &Case) -> Result<Vec<Vec<f64>>> {
        let Case { course, fate, .. } = case;
        let ours = case.ours.iter().map(|(name, _)| name);
        if !self.wants(ours.chain([&case.name])) {
            return Ok(Vec::new());
        }
        let layer = case.ours.first().map_or(Layer::Packets, |it| it.1.layer());
        let untouched = || (*course, Fate::Untouched);
        let mut entrants = vec![
            self.empty(layer, *course)?,
            self.baseline(Baseline::Parse, layer, untouched(), Proof::Last)?,
        ];
        for (rival, _) in &case.rivals {
            let is_unknown = matches!(case.reason, Reason::NewFlow | Reason::NotService);
            let is_forgetful = matches!(rival, Baseline::Minimal | Baseline::Sender);
            let all = is_unknown || is_forgetful;
            let proof = Proof::Misses { all };
            entrants.push(self.baseline(*rival, layer, (*course, fate.clone()), proof)?);
        }
        for floor in case.floors {
            entrants.push(self.baseline(*floor, layer, untouched(), Proof::Last)?);
        }
        for (_, ours) in &case.ours {
            entrants.push(self.ours(ours, *course, fate.clone(), case.reason)?);
        }
        let names: Vec<&'static str> = entrants.iter().map(|it| it.name).collect();
        let times = self.race(entrants, case.packets, case.warm)?;
        let empty = times.first().context("the empty program ran")?;
        let figure = Figure::new("driver and test run", "ns");
        let figure = figure.of(Baseline::Empty.name());
        self.report.add(&case.name, figure, empty);
        let costs: Vec<(&'static str, Vec<f64>)> = names
            .into_iter()
            .zip(times.iter().map(|times| over(times, empty)))
            .skip(1)
            .collect();
        let (others, ours) = costs.split_at(costs.len() - case.ours.len());
        for (name, cost) in others {
            self.report.add(&case.name, COST.of(name), cost);
        }
        for ((name, _), (who, cost)) in case.ours.iter().zip(ours) {
            let figure = COST.of(who);
            if let Some(target) = case.target {
                self.report.add(name, figure.at_most(target), cost);
            } else if case.rivals.is_empty() {
                self.report.add(name, figure, cost);
            }
            for (rival, bar) in &case.rivals {
                let cost_of = |name| others.iter().find(|(other, _)| *other == name);
                let (_, theirs) = cost_of(rival.name()).context("every rival ran")?;
                let pair = (rival.name(), theirs.as_slice());
                self.report
                    .add_pairs(name, figure.with_bar(*bar), cost, pair);
            }
        }
        self.floors(case, others);
        Ok(ours.iter().map(|(_, cost)| cost.clone()).collect())
    }

    /// How far below the LRU hash a table like ours could come at best.
    fn floors(&mut self, case: &Case, others: &[(&'static str, Vec<f64>)]) {
        let cost_of = |name| others.iter().find(|(other, _)| *other == name);
        let Some((lru, theirs)) = cost_of(Baseline::Lru.name()) else {
            return;
        };
        for floor in case.floors {
            if let Some((name, cost)) = cost_of(floor.name()) {
                self.report
                    .add_pairs(&case.name, COST.of(name), cost, (lru, theirs));
            }
        }
    }
}

/// What was measured over the empty program in the same round.
pub(super) fn over(times: &[f64], empty: &[f64]) -> Vec<f64> {
    debug_assert!(middle(empty).is_finite(), "every round has an empty run");
    let pairs = times.iter().zip(empty);
    pairs
        .map(|(time, empty)| (time - empty).max(0.01))
        .collect()
}
