//! The seeds of the fuzz target `parse`: one packet of each shape, since a fuzzer takes long to
//! find an extension header by itself.
//!
//! `STEERAGE_UPDATE_CORPUS=1 cargo test -p lb-common --test packet corpus` writes them anew.

use std::collections::BTreeMap;
use std::path::Path;
use std::{env, fs};

use lb_common::family::{Family, V4, V6};
use lb_common::flow::Protocol;

use crate::given::{address, build, ip, tuple};
use crate::packets;

fn seeds<F: Family>() -> Vec<(String, Vec<u8>)> {
    let (client, service) = (ip::<F>(address::<F>(1)), ip::<F>(address::<F>(2)));
    let mut seeds = Vec::new();
    for protocol in [Protocol::Tcp, Protocol::Udp, Protocol::Sctp] {
        let packet = build::<F>(&tuple(protocol));
        let frame = packet.build();
        let fragments = packet.clone().payload(&[7; 60]).fragments(40);
        let decorated = if F::IS_V6 {
            let pad = [0, 1, 4, 0, 0, 0, 0];
            let packet = packet.clone().extension(0, &pad).extension(60, &pad);
            packet.extension(51, &[1, 0, 0, 0, 0, 0, 9, 0, 0, 0, 1])
        } else {
            packet.clone().options(10)
        };
        for (shape, bytes) in [
            ("plain", frame.clone()),
            ("tagged", packet.tag(0x88a8).tag(0x8100).build()),
            ("decorated", decorated.build()),
            ("first-fragment", fragments[0].clone()),
            ("later-fragment", fragments[1].clone()),
            (
                "unreachable",
                packets::unreachable(service, client, &frame).build(),
            ),
            (
                "too-big",
                packets::too_big(service, client, 1280, &decorated.build()).build(),
            ),
        ] {
            seeds.push((format!("{shape}-{protocol:?}"), bytes));
        }
    }
    seeds.push((
        "echo".to_owned(),
        packets::echo_request(client, service).build(),
    ));
    if F::IS_V6 {
        let quoted = build::<F>(&tuple(Protocol::Tcp)).build();
        let message = [&[0; 32][..], &[4, 8, 0, 0, 0, 0, 0, 0], &quoted[14..]].concat();
        let redirect = packets::icmp(service, client, [137, 0], [0; 4]).payload(&message);
        seeds.push(("redirect".to_owned(), redirect.build()));
    }
    let family = if F::IS_V6 { "v6" } else { "v4" };
    let name = |(shape, bytes)| (format!("{shape}-{family}").to_lowercase(), bytes);
    seeds.into_iter().map(name).collect()
}

#[test]
fn the_corpus_has_a_packet_of_every_shape() {
    let seeds: BTreeMap<_, _> = seeds::<V4>().into_iter().chain(seeds::<V6>()).collect();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz/corpus/parse");
    if env::var_os("STEERAGE_UPDATE_CORPUS").is_some() {
        fs::create_dir_all(&folder).unwrap();
        for (name, bytes) in &seeds {
            fs::write(folder.join(name), bytes).unwrap();
        }
    }
    for (name, bytes) in &seeds {
        assert_eq!(
            fs::read(folder.join(name)).ok().as_ref(),
            Some(bytes),
            "{name}"
        );
    }
}
