// Package packtest finds out whether an adapter pack's claims hold, against the real server: for each case it sets up a
// scratch folder, takes the before-image that the pack names, does the call, makes the undo and calls it, and compares what is
// there with what was there, byte for byte.
//
// Cases are a YAML file beside the pack ([ParseCases]); [Run] tries them one after the other on one running server. It is
// what `hypervisor pack test` and the tests of the bundled packs do.
//
// It is not the hypervisor: nothing is decided by rules, recorded or asked of anybody; images and undos are made as package
// action makes them for it. It may import action and internal/document.
package packtest
