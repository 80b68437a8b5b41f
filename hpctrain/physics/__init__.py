"""Physics as pure functions: generators' settings, detector, jets, images, features."""
