use ha_tower::discover;

fn main() {
    let addresses = vec!["10.0.0.1:80".to_owned(), "10.0.0.2:80".to_owned()];
    // Each item is the whole set, and not one of it.
    let _ = discover::stream(futures_util::stream::iter(addresses));
}
