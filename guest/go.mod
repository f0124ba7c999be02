module callbox.dev/guest

go 1.26
