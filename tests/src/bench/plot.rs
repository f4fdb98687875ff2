//! Bars of kept figures, as SVG.

use anyhow::{Result, anyhow};
use plotters::{
    backend::SVGBackend,
    chart::{ChartBuilder, SeriesLabelPosition},
    drawing::IntoDrawingArea as _,
    element::{Rectangle, Text},
    style::{
        BLACK, Color as _, IntoFont as _, RGBColor, WHITE,
        text_anchor::{HPos, Pos, VPos},
    },
};

use super::report::Row;
use crate::scenario::to_f64;

/// Width and height in pixels.
const SIZE: (u32, u32) = (860, 380);
/// Distinguishable also without colours, by lightness.
const COLOURS: [RGBColor; 5] = [
    RGBColor(31, 78, 121),
    RGBColor(230, 150, 60),
    RGBColor(140, 190, 220),
    RGBColor(120, 120, 120),
    RGBColor(90, 160, 90),
];

/// One picture.
#[derive(Debug)]
pub(super) struct Plot {
    /// Of its file, without the extension.
    pub(super) name: &'static str,
    /// Of the rows it shows.
    pub(super) group: &'static str,
    /// Above the bars.
    pub(super) title: &'static str,
    metric: &'static str,
    unit: &'static str,
    /// A case of the rows, and how it is called below its bars.
    cases: &'static [(&'static str, &'static str)],
    contenders: &'static [&'static str],
}

/// A contender and its figures, one for each case that is shown.
type Series = (&'static str, Vec<Option<f64>>);

/// Every picture.
pub(super) const PLOTS: &[Plot] = &[
    Plot {
        name: "established",
        group: "datapath",
        title: "A packet of a known flow (IPv4 TCP), over the empty program",
        metric: "a packet, over the empty program",
        unit: "ns",
        cases: &[
            ("established, one flow, IPv4 TCP", "one flow"),
            ("established, 4 k flows, IPv4 TCP", "4 k"),
            ("established, 64 k flows, IPv4 TCP", "64 k"),
            ("established, 1 M flows, IPv4 TCP", "1 M"),
        ],
        contenders: &[
            "steerage",
            "minimal, LRU hash",
            "minimal, hash",
            "minimal, no table",
            "floor, two lines",
        ],
    },
    Plot {
        name: "new-flows",
        group: "datapath",
        title: "A packet of a flow that nobody knows, over the empty program",
        metric: "a packet, over the empty program",
        unit: "ns",
        cases: &[
            ("every packet a new flow, IPv4 UDP", "UDP"),
            ("SYN flood, IPv4 TCP", "SYN flood"),
        ],
        contenders: &[
            "steerage",
            "minimal, LRU hash",
            "minimal, hash",
            "minimal, no table",
            "floor, an insertion's lines",
        ],
    },
    Plot {
        name: "connections",
        group: "net",
        title: "Connections a second by one client, by services in the cluster",
        metric: "connections, 1 client",
        unit: "1/s",
        cases: SIZES,
        contenders: CONTENDERS,
    },
    Plot {
        name: "udp",
        group: "net",
        title: "UDP packets a second, by services in the cluster",
        metric: "UDP packets",
        unit: "k/s",
        cases: SIZES,
        contenders: CONTENDERS,
    },
    Plot {
        name: "connections-remote",
        group: "net",
        title: "Connections a second by one client to another node, by services in the cluster",
        metric: "connections, 1 client",
        unit: "1/s",
        cases: REMOTE_SIZES,
        contenders: CONTENDERS,
    },
    Plot {
        name: "node-port",
        group: "net",
        title: "UDP packets a second by a node port to another node, by services in the cluster",
        metric: "UDP packets",
        unit: "k/s",
        cases: NODE_PORT_SIZES,
        contenders: CONTENDERS,
    },
];

/// Sizes of the cluster.
const SIZES: &[(&str, &str)] = &[
    ("1 services", "1"),
    ("1000 services", "1 000"),
    ("10000 services", "10 000"),
    ("50000 services", "50 000"),
];
/// The same with a backend on another node.
const REMOTE_SIZES: &[(&str, &str)] = &[
    ("1 services, remote backend", "1"),
    ("1000 services, remote backend", "1 000"),
    ("10000 services, remote backend", "10 000"),
    ("50000 services, remote backend", "50 000"),
];
/// The same by a node port.
const NODE_PORT_SIZES: &[(&str, &str)] = &[
    ("node port, remote backend, cluster of 1", "1"),
    ("node port, remote backend, cluster of 1000", "1 000"),
    ("node port, remote backend, cluster of 10000", "10 000"),
    ("node port, remote backend, cluster of 50000", "50 000"),
];
/// Who carries packets.
const CONTENDERS: &[&str] = &[
    "steerage, tc",
    "steerage, redirect",
    "nftables",
    "iptables",
    "direct",
];

impl Plot {
    /// The picture, if any of `rows` is in it; without what none of them is about.
    pub(super) fn draw(&self, rows: &[Row]) -> Result<Option<String>> {
        let median = |contender: &str, case: &str| {
            let mut rows = rows.iter().filter(|row| {
                row.group == self.group && row.metric == self.metric && row.contender == contender
            });
            let row = rows.find(|row| row.case == case);
            row.map(|row| row.median)
        };
        let is_there = |case: &str| {
            let mut contenders = self.contenders.iter();
            contenders.any(|contender| median(contender, case).is_some())
        };
        let cases = self.cases.iter().filter(|(case, _)| is_there(case));
        let cases: Vec<(&str, &str)> = cases.copied().collect();
        let series: Vec<Series> = self
            .contenders
            .iter()
            .map(|name| {
                let cases = cases.iter();
                (*name, cases.map(|(case, _)| median(name, case)).collect())
            })
            .filter(|(_, figures): &Series| figures.iter().any(Option::is_some))
            .collect();
        let all = series.iter().flat_map(|(_, figures)| figures);
        let highest = all.flatten().copied().fold(0.0, f64::max);
        if highest <= 0.0 {
            return Ok(None);
        }
        let mut text = String::new();
        let labels: Vec<&str> = cases.iter().map(|(_, label)| *label).collect();
        self.bars((&labels, &series), highest * 1.25, &mut text)
            .map_err(|error| anyhow!("draw {}: {error}", self.name))?;
        text.push('\n');
        Ok(Some(text))
    }

    fn bars(
        &self,
        (labels, series): (&[&str], &[Series]),
        top: f64,
        text: &mut String,
    ) -> Result<(), Box<dyn std::error::Error>> {
        let area = SVGBackend::with_string(text, SIZE).into_drawing_area();
        area.fill(&WHITE)?;
        let width = f64::from(u32::try_from(labels.len())?);
        let mut chart = ChartBuilder::on(&area)
            .caption(self.title, ("sans-serif", 18))
            .margin(10)
            .x_label_area_size(30)
            .y_label_area_size(60)
            .build_cartesian_2d(0.0..width, 0.0..top)?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .disable_x_axis()
            .y_desc(self.unit)
            .draw()?;
        let step = 0.8 / to_f64(series.len().try_into()?);
        for (index, (name, figures)) in series.iter().enumerate() {
            let colour = COLOURS[index % COLOURS.len()];
            let bars = figures.iter().enumerate().filter_map(|(position, figure)| {
                let left =
                    0.1 + to_f64(position.try_into().ok()?) + step * to_f64(index.try_into().ok()?);
                Some((left, (*figure)?))
            });
            let bars: Vec<(f64, f64)> = bars.collect();
            let rectangles = bars.iter().map(|(left, figure)| {
                Rectangle::new(
                    [(*left, 0.0), (left + step * 0.92, *figure)],
                    colour.filled(),
                )
            });
            chart
                .draw_series(rectangles)?
                .label(*name)
                .legend(move |(x, y)| {
                    Rectangle::new([(x, y - 5), (x + 12, y + 5)], colour.filled())
                });
            let centred = Pos::new(HPos::Center, VPos::Bottom);
            let small = ("sans-serif", 12).into_font().color(&BLACK).pos(centred);
            chart.draw_series(bars.iter().map(|(left, figure)| {
                let digits = if *figure < 10.0 { 2 } else { 0 };
                let label = format!("{figure:.digits$}");
                Text::new(label, (left + step * 0.46, *figure), small.clone())
            }))?;
        }
        let below = Pos::new(HPos::Center, VPos::Top);
        let style = ("sans-serif", 14).into_font().color(&BLACK).pos(below);
        let plotting = chart.plotting_area();
        for (position, label) in labels.iter().enumerate() {
            let middle = to_f64(position.try_into()?) + 0.5;
            let (x, y) = plotting.map_coordinate(&(middle, 0.0));
            area.draw_text(label, &style, (x, y + 8))?;
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperLeft)
            .border_style(BLACK)
            .background_style(WHITE.mix(0.8))
            .draw()?;
        area.present()?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plot_has_a_bar_with_its_figure_for_every_row_that_is_there() {
        let row = |contender: &str, median| Row {
            group: "datapath".into(),
            case: "SYN flood, IPv4 TCP".into(),
            contender: contender.into(),
            metric: "a packet, over the empty program".into(),
            median,
            ..Row::default()
        };
        let rows = [row("steerage", 321.0), row("minimal, LRU hash", 987.0)];
        let plot = &PLOTS[1];
        let text = plot.draw(&rows).unwrap().unwrap();
        for word in ["321", "987", "SYN flood", "minimal, LRU hash", plot.title] {
            assert!(text.contains(word), "{word}");
        }
        assert_eq!(plot.draw(&[]).unwrap(), None);
    }
}
