package audit_test

import (
	"fmt"

	"github.com/agenthypervisor/hypervisor/audit"
)

// A log is read once, in commit order, without a secret.
func ExampleVerifier() {
	log := smallBook().log
	log[5].Body[20] = 'X' // somebody was here

	var v audit.Verifier
	for _, record := range log {
		if v.Add(record) != nil {
			break // Close tells it too
		}
	}
	summary, err := v.Close()
	fmt.Println(summary.Records, err)
	// Output: 0 session/s1 record 2: its bytes are not those of the hash stored beside it
}
