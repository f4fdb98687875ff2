//! Which cells make sense, and which of those can run today.

use super::{
    Cell,
    dimension::{Address, Backend, Source},
};
use crate::lab::CniShape;

/// Whether a cell runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It does.
    Runs,
    /// It will, once there is what this names.
    NotYet(&'static str),
    /// It never will, and why.
    Senseless(&'static str),
}

/// Packets that never leave their host meet no device.
const LOOPBACK: Standing = Standing::NotYet("crosses lo: needs the socket hooks");

/// Whether `cell` runs.
pub fn standing(cell: Cell) -> Standing {
    if let Some(reason) = nonsense(cell) {
        return Standing::Senseless(reason);
    }
    match (cell.source, cell.address) {
        (_, Address::Localhost) | (Source::ThisNode, Address::NodePortHere) => LOOPBACK,
        // What is no address of the node itself leaves it by an uplink.
        _ => Standing::Runs,
    }
}

fn nonsense(cell: Cell) -> Option<&'static str> {
    let is_process = matches!(cell.source, Source::ThisNode | Source::OtherNode);
    if cell.address == Address::Localhost && !is_process {
        return Some("localhost is the node's alone");
    }
    let is_own = matches!(cell.backend, Backend::Local | Backend::Terminating);
    if cell.source == Source::Hairpin && !is_own {
        return Some("the source is not the endpoint");
    }
    (cell.shape == CniShape::Vxlan && meets_strict_filter(cell)).then_some(
        "packets between a pod and another node's address take two ways; a strict reverse-path \
         filter drops them with or without us, unless the CNI masquerades",
    )
}

/// Whether packets between a pod and the underlay address of another node are on the way: one
/// direction goes through the tunnel, the other beside it.
fn meets_strict_filter(cell: Cell) -> bool {
    let pod_of = match cell.source {
        Source::PodHere | Source::Hairpin => 1,
        Source::PodElsewhere => 3,
        Source::ThisNode | Source::OtherNode | Source::External => return false,
    };
    let asked = match cell.address {
        Address::NodePortHere => Some(1),
        Address::NodePortElsewhere => Some(2),
        _ => None,
    };
    if asked.is_some_and(|node| node != pod_of) {
        return true;
    }
    match cell.backend {
        Backend::HostLocal => pod_of != 1,
        Backend::HostRemote => pod_of != 2,
        Backend::Local | Backend::Remote | Backend::Terminating | Backend::Nobody => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(of: impl Fn(Standing) -> bool) -> usize {
        let all = Cell::all();
        all.into_iter().filter(|cell| of(standing(*cell))).count()
    }

    #[test]
    fn every_value_of_every_dimension_but_localhost_runs_somewhere() {
        let cells = Cell::running();
        for address in Address::ALL {
            let runs = cells.iter().any(|cell| cell.address == address);
            assert_eq!(runs, address != Address::Localhost, "{address}");
        }
        for source in Source::ALL {
            assert!(cells.iter().any(|cell| cell.source == source), "{source}");
        }
        for backend in Backend::ALL {
            assert!(
                cells.iter().any(|cell| cell.backend == backend),
                "{backend}"
            );
        }
    }

    #[test]
    fn each_cell_stands_somewhere_and_runs_on_every_path_or_none() {
        let all = Cell::all().len();
        let senseless = count(|standing| matches!(standing, Standing::Senseless(_)));
        let not_yet = count(|standing| matches!(standing, Standing::NotYet(_)));
        let runs = count(|standing| standing == Standing::Runs);
        assert_eq!(all, 6 * 6 * 2 * 6 * 2 * 2 * 3 * 4);
        assert_eq!(senseless + not_yet + runs, all);
        // What makes sense makes sense on every path.
        assert_eq!((all - senseless) % 3, 0);
        assert_eq!(runs % 3, 0);
        assert!(runs < all - senseless && runs * 2 > all - senseless);
    }
}
