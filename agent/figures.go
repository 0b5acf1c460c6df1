package agent

import "github.com/agenthypervisor/hypervisor/ring"

// figures.go: what each kind of entry makes of σ and of the risk (SPEC §3), in whole millionths rounded down.

const (
	cleanGain    = 20_000  // of what σ lacks to 1, a clean session
	cleanMost    = 900_000 // no σ rises above this by clean sessions alone
	faultWeight  = 250_000 // of σ, by the share
	quarWeight   = 100_000 // of σ, by the severity
	clippedLeast = 50_000  // what a clipped voucher keeps in any case
	reportMost   = 900_000 // the start a service's score can give

	// Reinstated is the σ of a reinstated agent, unless the operator says another.
	Reinstated ring.Sigma = 300_000

	riskSlash      = 150_000 // by the severity
	riskSlashLeast = 500_000 // the severity counted at least
	riskQuar       = 100_000
	riskQuarLeast  = 300_000
	riskFault      = 50_000
	riskClean      = 50_000 // less

	// RiskDenied and RiskProbation are from where on an agent is not admitted to a session, or only to ring 3.
	RiskDenied    ring.Sigma = 600_000
	RiskProbation ring.Sigma = 300_000
)

const one = uint64(ring.One)

// times returns a·b, rounded down.
func times(a, b ring.Sigma) ring.Sigma { return ring.Sigma(uint64(a) * uint64(b) / one) }

// less returns σ(1 − weight·part), rounded down once.
func less(sigma, weight, part ring.Sigma) ring.Sigma {
	return ring.Sigma(uint64(sigma) * (one*one - uint64(weight)*uint64(part)) / (one * one))
}

// after returns σ and the risk that an entry makes of the given ones. lost is what a clip takes at most: the bond.
func (e *Entry) after(sigma, risk, lost ring.Sigma) (ring.Sigma, ring.Sigma) {
	switch e.Kind {
	case Clean:
		risk -= min(risk, riskClean)
		if sigma < cleanMost {
			sigma = min(sigma+times(cleanGain, ring.One-sigma), cleanMost)
		}
	case Fault:
		sigma = less(sigma, faultWeight, e.Share)
		risk += times(riskFault, e.Severity)
	case Quarantine:
		sigma = less(sigma, quarWeight, e.Severity)
		risk += times(riskQuar, max(e.Severity, riskQuarLeast))
	case Slashing:
		sigma = 0
		risk += times(riskSlash, max(e.Severity, riskSlashLeast))
	case Clip:
		sigma = min(sigma, max(sigma-min(sigma, lost), clippedLeast)) // the least it keeps raises nobody
		risk += times(riskSlash, max(e.Severity, riskSlashLeast))
	}
	return sigma, min(risk, ring.One)
}
