package boot

const (
	finitModule = 273
	sysStatx    = 291
)
