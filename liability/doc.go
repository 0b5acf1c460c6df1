// Package liability is the theory of blame: who bears how much of an incident (SPEC §3 "Attribution").
//
// A Graph holds actions and what caused what; Attribute gives each agent its Shapley value of SPEC's game as a Share, with the
// reasons. It knows no session and no log: who builds the graph says what a cause is. No float takes part; the same graph gives
// the same shares on every machine. It imports policy, action and ring only.
package liability
