package hypervisor

import (
	"context"
	"fmt"
	"time"

	"github.com/agenthypervisor/hypervisor/session"
)

// history.go: the receipts that come with a join are proven before it is decided (SPEC §3 "History").

// receiptPatience is how long a join waits for what its receipts are worth.
const receiptPatience = 5 * time.Second

// A ReceiptVerifier says whether receipts hold. It is asked once a join, before the join is decided and with no lock held. Safe for
// concurrent use.
type ReceiptVerifier interface {
	// VerifyReceipts returns what is so of each receipt, in their places. session.Proven MUST mean: a checkpoint that is trusted here
	// holds that summary of that session of that hypervisor, opened and ended then, and the receipt's agent took part in it.
	// session.Disproven MUST mean that it is not so, whoever asks and whenever; what could not be found out in time is
	// session.Unproven. It returns once ctx is done. With an error nothing of the answer counts: all are unproven.
	VerifyReceipts(ctx context.Context, receipts []session.Receipt) ([]session.Proof, error)
}

// prove has receipts verified. It returns nil where nobody can say: a verifier that is away raises nobody and lowers nobody.
func (hv *Hypervisor) prove(ctx context.Context, receipts []session.Receipt) []session.Proof {
	if hv.opts.History == nil || len(receipts) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, receiptPatience)
	defer cancel()
	proofs, err := hv.opts.History.VerifyReceipts(ctx, receipts)
	if err == nil && len(proofs) != len(receipts) {
		err = fmt.Errorf("%d answers for %d receipts", len(proofs), len(receipts))
	}
	if err != nil {
		hv.opts.Logger.Warn("verifying an agent's receipts", "agent", string(receipts[0].Agent), "error", err)
		return nil
	}
	return proofs
}
