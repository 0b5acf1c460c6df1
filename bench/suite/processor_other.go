//go:build !unix

package suite

import "time"

// processor returns zero: the processor time of this process is not asked for here.
func processor() time.Duration { return 0 }
