//! The matrix of everything a Service address is: who dials what, and who should answer.
//!
//! No cell is written down by hand. [`Cell::all`] is the product of all [dimensions](dimension),
//! [`standing`](fn@standing) says which of them make sense and can run today,
//! [`expectation`](fn@expectation) what then happens, and [`cover`](cover::cover) chooses few in which
//! every pair of values meets. [`stage`] makes them real.
//!
//! There are three nodes. Node 1 is *here*: the endpoints that are local are its. Node 2 has the
//! remote ones, and nobody's clients. Node 3 has clients, and no endpoint.

pub mod cover;
pub mod dimension;
mod expectation;
pub mod masquerade;
mod run;
pub mod stage;
mod standing;

use std::fmt;

use self::dimension::{Address, Backend, Family, Path, Source};
pub use self::{
    expectation::{Expectation, Seen, Server, expectation},
    run::{Selected, not_running, run},
    standing::{Standing, standing},
};
use crate::{cluster::Policy, lab::CniShape, traffic::Transport};

/// One cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cell {
    /// Who dials.
    pub source: Source,
    /// What.
    pub address: Address,
    /// Both traffic policies of the Service.
    pub policy: Policy,
    /// Its one endpoint.
    pub backend: Backend,
    /// By which protocol.
    pub transport: Transport,
    /// Of which family the address is.
    pub family: Family,
    /// By which of the kernel's ways packets go.
    pub path: Path,
    /// How pods are connected.
    pub shape: CniShape,
}

/// How many dimensions there are.
pub const DIMENSIONS: usize = 8;

impl Cell {
    /// The whole product.
    pub fn all() -> Vec<Self> {
        let mut cells = Vec::new();
        for source in Source::ALL {
            for address in Address::ALL {
                for backend in Backend::ALL {
                    for shape in CniShape::ALL {
                        for path in Path::ALL {
                            cells.extend(Self::of(source, address, backend, shape, path));
                        }
                    }
                }
            }
        }
        cells
    }

    fn of(
        source: Source,
        address: Address,
        backend: Backend,
        shape: CniShape,
        path: Path,
    ) -> impl Iterator<Item = Self> {
        let policies = [Policy::Cluster, Policy::Local];
        policies.into_iter().flat_map(move |policy| {
            Transport::ALL.into_iter().flat_map(move |transport| {
                Family::ALL.into_iter().map(move |family| Self {
                    source,
                    address,
                    policy,
                    backend,
                    transport,
                    family,
                    path,
                    shape,
                })
            })
        })
    }

    /// Those that run today.
    pub fn running() -> Vec<Self> {
        let mut cells = Self::all();
        cells.retain(|cell| standing(*cell) == Standing::Runs);
        cells
    }

    /// The position of each of its values in its dimension.
    pub fn coordinates(&self) -> [usize; DIMENSIONS] {
        fn position<T: PartialEq>(all: &[T], value: &T) -> usize {
            let found = all.iter().position(|one| one == value);
            found.expect("every value is among all values of its dimension")
        }
        [
            position(&Source::ALL, &self.source),
            position(&Address::ALL, &self.address),
            position(&[Policy::Cluster, Policy::Local], &self.policy),
            position(&Backend::ALL, &self.backend),
            position(&Transport::ALL, &self.transport),
            position(&Family::ALL, &self.family),
            position(&Path::ALL, &self.path),
            position(&CniShape::ALL, &self.shape),
        ]
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            source,
            address,
            backend,
            transport,
            family,
            path,
            shape,
            ..
        } = self;
        let policy = self.policy.name();
        write!(
            f,
            "{source} to {address} of a Service with {policy} policies and {backend}, \
             {transport} over {family}, {path}, {shape}"
        )
    }
}
